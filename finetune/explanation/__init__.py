"""Why a network says what it says: which parts of an image speak for a class, and that laid over the image.

It knows networks and pictures, and nothing of commands.
"""
