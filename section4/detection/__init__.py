"""Detection: what is in the picture, and where? See `section4`. Read the files in this order:

boxes, metrics, errors; scenes, folders; detector, roi_align; and the three families sliding_window,
yolo, faster_rcnn, the last one beside torchvision's in reference.
"""
