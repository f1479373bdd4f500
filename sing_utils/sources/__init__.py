"""Pictures as they lie on disks: folders, lists, ImageNet, tar shards, data sets of the hub.

Finds and decodes them, with their labels and splits; knows no model.
"""
