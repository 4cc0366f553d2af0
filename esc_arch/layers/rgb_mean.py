"""The mean colour that networks take off the image and add again at the end."""

# Of the training images (DIV2K): red, green, blue in [0, 1].
RGB_MEAN = (0.4488, 0.4371, 0.4040)
