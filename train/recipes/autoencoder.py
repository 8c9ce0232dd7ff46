"""An autoencoder that learns handwritten digits from their pictures alone, without labels (MNIST, 5,000 of 28x28).

**Unlabelled** data has no answers to learn, so the network learns the data itself: an **encoder** presses each image of
784 pixels into a **code** of a few numbers, a **decoder** makes an image of the code again, and the loss is the
difference between the two, the **reconstruction error**. What many images share goes into the weights, and only what
tells them apart into the code. Three uses of it are shown:

- reconstructions, beside those of PCA, the best that any straight (linear) encoder and decoder of that size can do;
- a **latent map**: the codes drawn in a plane; digits of a kind lie together although no label was ever seen;
- an **anomaly score**: what the network reconstructs badly is unlike what it was trained on. Here it has to notice
  digits that were scanned sideways.

With `--variational` the encoder gives a small cloud instead of a point, and a second loss (the Kullback-Leibler
divergence) draws all clouds towards the normal distribution. Then every code means something, and codes drawn at
random make digits that nobody wrote (`samples.png`). (Kingma & Welling 2014, arXiv:1312.6114.)
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import ranvier as rv

from .. import pictures, run_folder
from ..data import ArrayDataset, DataLoader, load_mnist_5k, need, random_split, read_drawing
from ..metrics import MSE, ROCAUC
from ..trainer import Trainer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(epochs=60)
    parser.add_argument("--latent", type=_two_or_more, default=8, metavar="N", help="numbers in a code (%(default)s)")
    parser.add_argument("--variational", action="store_true", help="codes as clouds, from which new digits are drawn")


def _two_or_more(text: str) -> int:
    if int(text) < 2:
        raise argparse.ArgumentTypeError(f"expected an integer of 2 or more, got {text}")
    return int(text)


class Autoencoder(rv.Layer):
    """Images [N, 1, 28, 28] -> codes [N, latent] -> images [N, 1, 28, 28], all in 0..1.

    Args:
        latent: numbers in a code.
        variational: whether the encoder gives a mean and a variance for each of them.
    """

    def __init__(self, latent: int, variational: bool):
        super().__init__()
        self.variational = variational
        self.encoder = rv.Sequential(
            rv.Flatten(),
            rv.Dense(784, 512, activation="relu"),
            rv.Dense(512, 128, activation="relu"),
            rv.Dense(128, 2 * latent if variational else latent),
        )
        self.decoder = rv.Sequential(
            rv.Dense(latent, 128, activation="relu"),
            rv.Dense(128, 512, activation="relu"),
            rv.Dense(512, 784, activation="sigmoid"),
            rv.Unflatten(1, (1, 28, 28)),
        )

    def encode(self, images: rv.Tensor) -> tuple[rv.Tensor, rv.Tensor | None]:
        """The codes, and the logarithms of their variances where they are clouds."""
        codes = self.encoder(images)
        return rv.functional.chunk(codes, 2, dim=1) if self.variational else (codes, None)

    def forward(self, images: rv.Tensor) -> rv.Tensor:
        return self.decoder(self.encode(images)[0])


def step(trainer: Trainer, batch: tuple[rv.Tensor, ...]) -> tuple[rv.Tensor, rv.Tensor]:
    """A batch's loss and reconstruction. Losses are in nats an image."""
    model, (images, _) = trainer.model, batch
    codes, log_variance = mean, _ = model.encode(images)
    if model.variational and model.training:  # a point of the cloud; mean and variance get their gradients through it
        codes = mean + (log_variance / 2).exp() * rv.randn(mean.shape, device=mean.device)
    reconstruction = model.decoder(codes)
    loss = rv.functional.binary_cross_entropy(reconstruction, images, reduction="sum") / len(images)
    if model.variational:  # how far the clouds are from the normal distribution
        loss = loss + (mean**2 + log_variance.exp() - 1 - log_variance).sum() / (2 * len(images))
    return loss, reconstruction


def run(options: argparse.Namespace) -> dict:
    pca = need("sklearn.decomposition", "autoencoder").PCA(options.latent, random_state=options.seed)
    images, labels = load_mnist_5k("autoencoder")
    training, validation, test = random_split(ArrayDataset(images, labels), [0.8, 0.1, 0.1], stratify=labels)
    (x, _), (watched, _), (test_x, test_y) = (part.fetch(slice(None)) for part in (training, validation, test))

    def batches(part: np.ndarray, **arguments) -> DataLoader:  # what goes in is what shall come out; no labels
        return DataLoader(ArrayDataset(part, part), batch_size=64, **arguments)

    model = Autoencoder(options.latent, options.variational)
    epochs = min(options.epochs, 10) if options.quick else options.epochs
    optimizer = rv.optim.Adam(model.parameters(), lr=1e-3)
    loader = batches(x, shuffle=True)
    trainer = Trainer(
        model,
        optimizer=optimizer,
        training_step=step,
        capture=True,
        max_epochs=epochs,
        schedule=rv.optim.OneCycleLR(optimizer, max_lr=3e-3, total_steps=epochs * len(loader)),
        schedule_interval="step",
        metrics={"mse": MSE()},
        device=options.device,
        run_dir=options.run_dir,
    )
    trainer.fit(loader, batches(watched), resume=options.resume)

    def by_network(images: np.ndarray) -> np.ndarray:
        return trainer.predict(batches(images))

    def by_pca(images: np.ndarray) -> np.ndarray:
        return pca.inverse_transform(pca.transform(images.reshape(-1, 784))).reshape(images.shape)

    pca.fit(x.reshape(-1, 784))
    np.save(options.run_dir / "errors.npy", np.sort(errors(watched, by_network(watched))))  # what is usual
    sideways = np.rot90(test_x, axes=(2, 3))
    both, is_anomaly = np.concatenate([test_x, sideways]), np.repeat([0, 1], len(test_x))
    codes = encode(model, test_x)
    result = {"test_images": len(test_x), "latent": options.latent}
    for name, reconstruct in (("network", by_network), ("pca", by_pca)):
        result[f"{name}_mse"] = float(errors(test_x, reconstruct(test_x)).mean())
        result[f"{name}_sideways_auc"] = auc(errors(both, reconstruct(both)), is_anomaly)
    for name, points in (("network", codes), ("pixels", test_x.reshape(-1, 784))):
        result[f"{name}_neighbours"] = neighbours_of_a_kind(points, test_y)
    run_folder.write_result(options.run_dir, result)
    draw_rows({"digit": test_x, "network": by_network(test_x), "PCA": by_pca(test_x)}, options.run_dir)
    draw_map(codes, test_y, options)
    draw_most_unusual(both, errors(both, by_network(both)), options.run_dir)
    tell(options, result)
    if options.variational:
        draw_samples(model, options)
    return result


def encode(model: Autoencoder, images: np.ndarray) -> np.ndarray:
    """The codes [N, latent]."""
    with rv.no_grad():
        return model.eval().encode(rv.tensor(images, device=next(model.parameters()).device))[0].numpy()


def errors(images: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """The mean squared error of each image [N]: its anomaly score."""
    return ((images - reconstructions) ** 2).mean(axis=(1, 2, 3))


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    metric = ROCAUC()
    metric.update(scores, labels)
    return metric.compute()


def neighbours_of_a_kind(points: np.ndarray, labels: np.ndarray) -> float:
    """The part of the points whose nearest other point has the same label."""
    distances = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    return float((labels[distances.argmin(axis=1)] == labels).mean())


def tell(options: argparse.Namespace, result: dict) -> None:
    """Prints the numbers beside those of the baselines."""
    print(f"\n{result['test_images']} test digits, each pressed from 784 numbers into {options.latent}")
    print("                                                     network   baseline")
    rows = [
        ("reconstruction error (mean square); PCA", "network_mse", "pca_mse", ".4f"),
        ("told from digits on their side (AUC); PCA", "network_sideways_auc", "pca_sideways_auc", ".3f"),
        ("nearest other code is the same digit; pixels", "network_neighbours", "pixels_neighbours", ".1%"),
    ]
    for text, mine, baseline, form in rows:
        print(f"  {text:48}{result[mine]:>10{form}} {result[baseline]:>10{form}}")
    pictures_of_it = "reconstructions.png, map.png, unusual.png, curves.png" + (
        ", samples.png" if options.variational else ""
    )
    print(f"\nrun folder  {options.run_dir}/  ({pictures_of_it}, checkpoint/)")


def draw_rows(rows: dict, folder: Path) -> None:
    """Twelve digits, a row each for the original and what becomes of it."""
    figure, axes = pictures.new_figure(12, 3.2, len(rows), 12)
    for axis, image in zip(axes, (image for images in rows.values() for image in images[:12])):
        axis.imshow(image[0], cmap="gray_r", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
    for row, name in enumerate(rows):
        axes[12 * row].set_ylabel(name)
    figure.savefig(folder / "reconstructions.png", dpi=80)


def draw_map(codes: np.ndarray, labels: np.ndarray, options: argparse.Namespace) -> None:
    """The codes in a plane; more than two numbers a code are laid out by t-SNE, which keeps neighbours together."""
    if codes.shape[1] > 2:
        codes = need("sklearn.manifold", "autoencoder").TSNE(random_state=options.seed).fit_transform(codes)
    figure, (axis,) = pictures.new_figure(7, 6)
    for digit in range(10):
        axis.scatter(*codes[labels == digit].T, s=10, color=f"C{digit}")
        for x, y in codes[labels == digit][:12]:
            axis.text(x, y, str(digit), color=f"C{digit}", fontsize=11)
    axis.set(title="codes of test digits; the network never saw the labels", xticks=[], yticks=[])
    figure.savefig(options.run_dir / "map.png", dpi=90)


def draw_most_unusual(images: np.ndarray, scores: np.ndarray, folder: Path) -> None:
    """The 24 images of the highest anomaly score, among upright digits and the same digits on their side."""
    figure, axes = pictures.new_figure(12, 3.4, 2, 12)
    for axis, index in zip(axes, scores.argsort()[::-1]):
        axis.imshow(images[index, 0], cmap="gray_r", vmin=0, vmax=1)
        axis.set_title(f"{scores[index]:.3f}", fontsize=9)
        axis.set(xticks=[], yticks=[])
    figure.suptitle("most unusual first (reconstruction error)", fontsize=10)
    figure.savefig(folder / "unusual.png", dpi=80)


def draw_samples(model: Autoencoder, options: argparse.Namespace) -> None:
    """Digits that nobody wrote: what the decoder makes of codes drawn from the normal distribution."""
    with rv.no_grad():
        images = model.decoder(rv.randn((60, options.latent), device=options.device)).numpy()
    figure, axes = pictures.new_figure(12, 5.2, 5, 12)
    for axis, image in zip(axes, images):
        axis.imshow(image[0], cmap="gray_r", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
    figure.savefig(options.run_dir / "samples.png", dpi=80)


def predict(run: run_folder.Run, paths: list[Path]) -> Iterator[str]:
    """How unusual each image is as a digit: its reconstruction error, beside those of held-back digits."""
    model = run.load_weights(Autoencoder(run.options.latent, run.options.variational))
    usual = np.load(run.folder / "errors.npy", allow_pickle=False)
    for path in paths:
        image = read_drawing(path, size=28, margin=4)[None]
        with rv.no_grad():
            (error,) = errors(image, model(rv.tensor(image)).numpy())
        share = np.searchsorted(usual, error) / len(usual)
        verdict = "unlike a digit" if share > 0.99 else "unusual" if share > 0.9 else "like a digit"
        yield f"{path}: {verdict} (reconstruction error {error:.4f}, above that of {share:.0%} of held-back digits)"
