"""Datasets, readers for files, augmentation and the loader: everything between a file and a batch."""

from .augment import Compose, GaussianNoise, RandomCrop, RandomHorizontalFlip, RandomShift
from .dataset import ArrayDataset, Dataset, Subset, Transformed, random_split
from .loader import DataLoader
from .normalize import Normalize
from .readers import ImageFolder, load_digits, load_fashion_mnist, read_csv, read_idx

__all__ = [
    "ArrayDataset",
    "Compose",
    "DataLoader",
    "Dataset",
    "GaussianNoise",
    "ImageFolder",
    "Normalize",
    "RandomCrop",
    "RandomHorizontalFlip",
    "RandomShift",
    "Subset",
    "Transformed",
    "load_digits",
    "load_fashion_mnist",
    "random_split",
    "read_csv",
    "read_idx",
]
