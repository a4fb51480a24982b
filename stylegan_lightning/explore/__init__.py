"""A local web page that draws what a model can draw: seeds, mixing, directions, projection of your own pictures.

The server keeps nothing of a tab: the whole state of a picture travels in each request (`state`), so that tabs cannot
disturb each other and a link brings a picture back.
"""
