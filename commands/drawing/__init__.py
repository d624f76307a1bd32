"""What `python main.py draw` is made of: the picture, the network, the server, the page."""
