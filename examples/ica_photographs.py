"""What two photographs are made of: independent components of their patches, found by score matching.

`python examples/ica_photographs.py filters.png` also draws them. Source: Hyvärinen 2005, section 3.2.
"""

import sys

import numpy as np
from sklearn.datasets import load_sample_images
from sklearn.feature_extraction.image import extract_patches_2d

from scorefield import plots
from scorefield.estimators import IndependentComponents

SIDE = 8  # pixels


def patches(count: int, seed: int) -> np.ndarray:
    """Grey patches of both photographs at half their size, less their own means."""
    rows = []
    for image in load_sample_images().images:
        small = image[:426].mean(2).reshape(213, 2, 320, 2).mean((1, 3))
        rows.append(extract_patches_2d(small, (SIDE, SIDE), max_patches=count, random_state=seed).reshape(count, -1))
    x = np.concatenate(rows)
    return x - x.mean(axis=1, keepdims=True)


def kurtosis(u):
    """Of each column; 3 for a normal law."""
    return np.mean(((u - u.mean(0)) / u.std(0)) ** 4, axis=0)


def main():
    x, fresh = patches(2000, seed=0), patches(1000, seed=1)
    model = IndependentComponents(rank=32, tol=1e-3).fit(x)
    found = kurtosis(model.transform(fresh))
    principal = kurtosis(fresh @ np.linalg.eigh(np.cov(x.T))[1][:, -32:])
    print(f"median kurtosis: principal components {np.median(principal):.0f}, independent ones {np.median(found):.0f}")

    if sys.argv[-1].endswith(".png"):
        parts = model.mixing_.T[np.argsort(-np.linalg.norm(model.mixing_, axis=0))]
        tiles = (parts / np.abs(parts).max(axis=1, keepdims=True)).reshape(-1, 1, SIDE, SIDE)
        path = plots.save(plots.image_grid(tiles, columns=8, smooth=True, value_range=(-1, 1)), sys.argv[-1])
        print(f"{len(parts)} parts -> {path}")


if __name__ == "__main__":
    main()
