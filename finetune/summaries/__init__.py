"""A network as people see it before it is trained: its layers in a table, its groups of layers in a drawing.

It knows models, plans and the trunk, and nothing of training.
"""
