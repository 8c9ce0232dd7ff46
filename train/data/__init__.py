"""Datasets, readers for files, augmentation and the loader: everything between a file and a batch."""

from .audio import log_mel, mel_filters, read_wav, resample
from .augment import Compose, GaussianNoise, RandomCrop, RandomHorizontalFlip, RandomShift
from .dataset import ArrayDataset, Dataset, Subset, TensorDataset, Transformed, random_split
from .loader import DataLoader
from .normalize import Normalize
from .packages import debian_file, load_mnist_5k, need, package_file, rdataset
from .readers import (
    ImageFolder,
    load_digits,
    load_fashion_mnist,
    read_csv,
    read_csv_header,
    read_drawing,
    read_idx,
    read_image,
)
from .table import TableEncoder, read_table
from .text import Vocabulary, detokenize, pad_sentences, read_text, read_verses, tokenize

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
    "TableEncoder",
    "TensorDataset",
    "Transformed",
    "Vocabulary",
    "debian_file",
    "detokenize",
    "load_digits",
    "load_fashion_mnist",
    "load_mnist_5k",
    "log_mel",
    "mel_filters",
    "need",
    "package_file",
    "pad_sentences",
    "random_split",
    "rdataset",
    "read_csv",
    "read_csv_header",
    "read_drawing",
    "read_idx",
    "read_image",
    "read_table",
    "read_text",
    "read_verses",
    "read_wav",
    "resample",
    "tokenize",
]
