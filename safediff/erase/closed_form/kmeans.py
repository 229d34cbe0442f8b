"""k-means (Lloyd's algorithm) with seeded k-means++ starts."""

import torch
from torch import Tensor


def kmeans_centres(points: Tensor, num_centres: int, seed: int) -> Tensor:
    """Centres (num_centres, d) of ``points`` (n, d); the same points and seed give the same ones.

    Starts by k-means++ (Arthur and Vassilvitskii 2007): every further centre is a point, drawn
    with probability proportional to its squared distance from the centres so far.
    """
    generator = torch.Generator().manual_seed(seed)
    first = int(torch.randint(len(points), (), generator=generator))
    centres = points[first : first + 1]
    while len(centres) < num_centres:
        distance = torch.cdist(points, centres).square().amin(1).cpu()
        if not bool(distance.any()):  # fewer distinct points than centres
            distance = torch.ones_like(distance)
        drawn = int(torch.multinomial(distance, 1, generator=generator))
        centres = torch.cat([centres, points[drawn : drawn + 1]])
    nearest = torch.cdist(points, centres).argmin(1)
    while True:
        groups = [points[nearest == index] for index in range(num_centres)]
        centres = torch.stack(
            [g.mean(0) if len(g) else old for g, old in zip(groups, centres, strict=True)]
        )
        before, nearest = nearest, torch.cdist(points, centres).argmin(1)
        if torch.equal(nearest, before):
            return centres
