"""An interaction log made by the code: groups of users and items, popularity, noise, and features that tell the groups."""

from __future__ import annotations

import numpy as np


def make_interactions(
    num_users: int = 600,
    num_items: int = 400,
    num_groups: int = 8,
    *,
    mean_history: float = 20.0,
    noise: float = 0.2,
    feature_noise: float = 1.0,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """
    Users who like one or two groups of items, and now and then something else.

    Every item belongs to a group and has a popularity that falls with its rank, so that popular items are a baseline worth
    beating. A user draws a main group and a second one, and for every choice takes the main group (two times in three) or the
    second, or, with the probability `noise`, any item; items of a group by popularity, each at most once. Features are noisy
    images of the group: those of one modality tell half of the groups apart, those of the other the other half.

    Args:
        num_users (`int`, defaults to 600), num_items (`int`, defaults to 400), num_groups (`int`, defaults to 8): how many.
        mean_history (`float`, defaults to 20): items of a user on average; at least 5.
        noise (`float`, defaults to 0.2): share of choices that follow popularity alone.
        feature_noise (`float`, defaults to 1.0): deviation of what is added to features of length 1 in each number.
        seed (`int`, defaults to 0): of everything.

    Returns:
        `(users [E], items [E], {"image": [num_items, 24], "text": [num_items, 16]})`: pairs without repeats, in random order.

    Raises:
        ValueError: sizes that leave a group without items, or noise out of range.

    Example:

    ```python
    >>> from hf_contrastive.data import make_interactions
    >>> users, items, features = make_interactions(num_users=50, num_items=40, num_groups=4)
    >>> len(users) == len(items) >= 250, features["image"].shape
    (True, (40, 24))

    ```
    """
    if not 1 <= num_groups <= num_items // 5:
        raise ValueError(f"`num_groups` is {num_groups}, but there must be 1 to {num_items // 5} (5 items a group)")
    if not 0 <= noise <= 1:
        raise ValueError(f"`noise` is {noise!r}; expected a share from 0 to 1")
    rng = np.random.RandomState(seed)  # its stream is frozen: the data never changes with the numpy version
    group = rng.permutation(num_items) % num_groups
    popularity = 1.0 / (1 + rng.permutation(num_items)) ** 0.7
    chances = [np.where(group == number, popularity, 0.0) for number in range(num_groups)]
    chances = [weights / weights.sum() for weights in chances]
    anything = popularity / popularity.sum()
    users, items = [], []
    for user in range(num_users):
        main, second = rng.randint(num_groups, size=2)
        size = int(np.clip(rng.lognormal(np.log(mean_history) - 0.125, 0.5), 5, num_items // 4))
        taste = (1 - noise) * (2 * chances[main] + chances[second]) / 3 + noise * anything
        chosen = rng.choice(num_items, size=size, replace=False, p=taste)
        users.append(np.full(size, user))
        items.append(chosen)
    order = rng.permutation(sum(len(part) for part in items))
    features = {}
    for place, (name, dim) in enumerate((("image", 24), ("text", 16))):
        centres = rng.normal(size=(num_groups, dim))
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        blurred = np.arange(num_groups) % 2 == place
        centres[blurred] = centres[blurred].mean(0)
        spread = feature_noise / np.sqrt(dim)
        features[name] = (centres[group] + spread * rng.normal(size=(num_items, dim))).astype(np.float32)
    return np.concatenate(users)[order], np.concatenate(items)[order], features


__all__ = ["make_interactions"]
