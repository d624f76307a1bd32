"""Data sets: loading, downloading, checking, and stand-ins that need no network."""

from utils.data.dataset import Dataset, SplitDataset, TextData
from utils.data.errors import DataError
from utils.data.sets import NAMES, data_folder, load

__all__ = ["NAMES", "DataError", "Dataset", "SplitDataset", "TextData", "data_folder", "load"]
