"""Files of images in, classes out."""
