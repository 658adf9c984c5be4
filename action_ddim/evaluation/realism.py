"""How real drawn actions look beside held-out ones, where there is no original to compare with.

Each figure stands beside its floor, the same figure between two halves of the real actions. Both are taken from equally
many sequences and averaged over the same random halves, since every one of them depends on the number. Needs scikit-learn,
scipy and aeon, the extra `eval`.
"""

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from action_ddim.actions import PRESS, PRESS_THRESHOLD, X, Y, moves
from action_ddim.data.features import GESTURE_TYPES, REST, action_features, gesture_types, type_shares
from action_ddim.errors import UserError

MIN_SEQUENCES = 100  # on either side; with fewer the floors are as large as what they are to be compared with
MAX_SEQUENCES = 1000  # on either side; a classifier learns hardly more from more, and takes its time
NUM_HALVINGS = 5
NUM_JUDGED = 2  # of the halvings, for all that the judges say beyond `classifier_accuracy`: each takes a second or two
NUM_FOLDS = 5
NUM_TREES = 50
NUM_BINS = 20
NUM_KERNELS = 2000  # of MiniRocket; its usual 10,000 tell no more apart here
MIN_STEPS = 9  # the length of its kernels
NUM_STRETCHES = 10
GRID = (1920, 1080, 1)  # pixels of the screen, and the press, which is 0 or 1
DISTRIBUTIONS = ("duration", "path_length", "peak_speed", "press_time")
DISTANCES = ("frechet_distance", "type_distance", "one_press_gap", "exact_rests_gap")  # of `distances`


@dataclass(frozen=True)
class Comparison:
    """A figure and its floor, means over halvings."""

    value: float
    floor: float


@dataclass(frozen=True)
class Realism:
    """Figures of realism by name, from `num_sequences` a side; no figures, and a reason, where there were too few.

    - `classifier_accuracy`: share of sequences that a classifier tells apart rightly, drawn from real (Lopez-Paz and Oquab,
      arXiv 1610.06545): a random forest on `features.action_features`, in 5-fold cross-validation. 0.5 is perfect.
    - `sequence_classifier_accuracy`: the same of a judge that knows no features, MiniRocket on the sequences; left out, with a
      reason, where they are shorter than its kernels.
    - `..._on_grid`, `..._without_rests` of both: what is left to see where both sides were changed so.
    - `frechet_distance`: squared Frechet distance between Gaussians fitted to the features (as in arXiv 1706.08500,
      equation 6), which are in their own units, all of the order of 1.
    - `js_duration`, `js_path_length`, `js_peak_speed`, `js_press_time`: Jensen-Shannon distance to base 2, in [0, 1], of
      histograms of a feature over 20 bins that hold equally many of all sequences.
    - `js_gesture_type`: the same of the shares of the gesture types.

    `type_shares` holds the share of each gesture type among the `drawn` and the `real` sequences.

    What gives the drawings away: `by_feature` holds the accuracy from each feature alone, `by_stretch` that of MiniRocket from
    each stretch of time alone, "first to last" step, from one halving.
    """

    num_sequences: int
    figures: dict[str, Comparison]
    type_shares: dict[str, dict[str, float]]
    reason: str = ""
    by_feature: dict[str, Comparison] = field(default_factory=dict)
    by_stretch: dict[str, Comparison] = field(default_factory=dict)


def check_eval_packages() -> None:
    """Raise a UserError where scikit-learn, scipy or aeon is missing."""
    for package, library in (("scipy", "scipy"), ("sklearn", "scikit-learn"), ("aeon", "aeon")):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(f'the evaluation needs {library}, which is missing: pip install "action-ddim[eval]"') from error


def describe(actions: np.ndarray) -> dict[str, float]:
    """Return what actions `(N, L, 3)` are like at a glance, shares in [0, 1].

    - `none`, `click`, `horizontal`, `vertical`, `diagonal`: of the sequences, the gesture types.
    - `one_press`: of the sequences, those that press exactly once.
    - `exact_rests`: of the steps of x and of y, those that repeat the one before.
    """
    one_press = (action_features(actions)["num_presses"] == 1).mean()
    return {**_shares_by_type(actions), "one_press": float(one_press), "exact_rests": float(1 - moves(actions).mean())}


def _shares_by_type(actions: np.ndarray) -> dict[str, float]:
    return dict(zip(GESTURE_TYPES, type_shares(actions).tolist(), strict=True))


def distances(drawn: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Return how far drawn actions `(M, L, 3)` are from real ones `(N, L, 3)` at a glance; 0 is the best.

    - `frechet_distance`: as in `Realism`, without its floor, which is the larger the fewer the sequences; NaN with one of them.
    - `type_distance`: total variation distance of the shares of the gesture types, in [0, 1].
    - `one_press_gap`, `exact_rests_gap`: absolute differences of the shares of `describe`.
    """
    first, second = describe(drawn), describe(real)
    gaps = {name: abs(first[name] - second[name]) for name in first}
    features = [Described.of(actions).features for actions in (drawn, real)]
    frechet = frechet_distance(*features) if min(len(drawn), len(real)) > 1 else math.nan
    type_distance = sum(gaps[name] for name in GESTURE_TYPES) / 2
    return dict(zip(DISTANCES, (frechet, type_distance, gaps["one_press"], gaps["exact_rests"]), strict=True))


def measure_realism(samples: np.ndarray, real: np.ndarray, seed: int = 0, *, judged: bool = True) -> Realism:
    """Compare drawn actions `(M, L, 3)` with real ones `(N, L, 3)`; a pure function of its arguments.

    Args:
        judged: Whether the judges say more than `classifier_accuracy`, which takes most of the time.

    Raises:
        UserError: scikit-learn, scipy or aeon is missing.
    """
    check_eval_packages()
    count = min(len(samples), len(real) // 2, MAX_SEQUENCES)
    shares = {"drawn": _shares_by_type(samples), "real": _shares_by_type(real)}
    if count < MIN_SEQUENCES:
        reason = (
            f"not computed from {len(samples)} drawn and {len(real)} real sequences:"
            f" it takes {MIN_SEQUENCES} drawn and {2 * MIN_SEQUENCES} real ones"
        )
        return Realism(count, {}, shares, reason)
    rng, halvings = np.random.default_rng(seed), []
    for _ in range(NUM_HALVINGS):
        first, second = rng.permutation(len(real))[: 2 * count].reshape(2, count)
        halvings.append((first, second, rng.permutation(len(samples))[:count]))
    drawn, held_out = Described.of(samples), Described.of(real)
    edges = {name: _bin_edges(drawn.column(name), held_out.column(name)) for name in DISTRIBUTIONS}
    plan: dict[str, list[Measurement]] = {
        "figures": [Measurement(partial(_figures, edges=edges, seed=seed), drawn, held_out, NUM_HALVINGS)]
    }
    reason = ""
    if judged:
        plan["figures"] += _variants(samples, real, seed)
        plan["by_feature"] = [Measurement(partial(feature_accuracies, seed=seed), drawn, held_out)]
        plan["by_stretch"] = _stretches(samples, real, seed)
        if real.shape[1] < MIN_STEPS:
            reason = f"MiniRocket takes sequences of at least {MIN_STEPS} steps, and these are of {real.shape[1]}."
    total = 2 * sum(measurement.num for group in plan.values() for measurement in group)
    with tqdm(total=total, unit="comparison", desc="realism", disable=None, leave=False) as progress:
        found = {
            group: {name: each for one in measurements for name, each in one.compare(halvings, progress).items()}
            for group, measurements in plan.items()
        }
    return Realism(count, type_shares=shares, reason=reason, **found)


@dataclass(frozen=True)
class Measurement:
    """Figures by name of two sets, to be measured of drawn beside real actions and of real beside real ones.

    Args:
        measure: Takes two sets of equally many rows.
        drawn, real: What the rows are taken from: arrays, or what is indexed like them.
        num: Of the halvings, the first so many are taken.
    """

    measure: Callable[[Any, Any], dict[str, float]]
    drawn: Any
    real: Any
    num: int = NUM_JUDGED
    label: str = "realism"

    def compare(self, halvings: Sequence[tuple[np.ndarray, ...]], progress: tqdm) -> dict[str, Comparison]:
        """Return the figures and their floors; a halving is rows of two sets of real sequences, and of drawn ones."""
        progress.set_description(self.label)
        pairs = []
        for first, second, subset in halvings[: self.num]:
            for other in (self.drawn[subset], self.real[second]):
                pairs.append(self.measure(other, self.real[first]))
                progress.update()
        values, floors = (
            {name: float(np.mean([pair[name] for pair in pairs[side::2]])) for name in pairs[0]} for side in (0, 1)
        )
        return {name: Comparison(values[name], floors[name]) for name in values}


@dataclass(frozen=True)
class Described:
    """Sequences as the comparison sees them: features `(N, F)` in the order of `names`, and gesture types `(N,)`."""

    names: tuple[str, ...]
    features: np.ndarray
    types: np.ndarray

    @classmethod
    def of(cls, actions: np.ndarray) -> "Described":
        features = action_features(actions)
        return cls(tuple(features), np.stack(list(features.values()), axis=1), gesture_types(actions))

    def __getitem__(self, rows: np.ndarray) -> "Described":
        return Described(self.names, self.features[rows], self.types[rows])

    def column(self, name: str) -> np.ndarray:
        return self.features[:, self.names.index(name)]


def _figures(first: Described, second: Described, edges: dict[str, np.ndarray], seed: int) -> dict[str, float]:
    """Return the figures between two sets of equally many sequences."""
    figures = {
        "classifier_accuracy": classifier_accuracy(first.features, second.features, seed),
        "frechet_distance": frechet_distance(first.features, second.features),
    }
    for name in DISTRIBUTIONS:
        counts = [np.histogram(each.column(name), edges[name])[0] for each in (first, second)]
        figures[f"js_{name}"] = js_distance(*counts)
    counts = [np.bincount(each.types, minlength=len(GESTURE_TYPES)) for each in (first, second)]
    return {**figures, "js_gesture_type": js_distance(*counts)}


def classifier_accuracy(first: np.ndarray, second: np.ndarray, seed: int = 0) -> float:
    """Return how well a random forest tells two sets of features `(N, F)` apart, in cross-validation: 0.5 is not at all."""
    from sklearn.ensemble import RandomForestClassifier

    # A leaf of several sequences keeps the trees from learning their noise by heart.
    forest = RandomForestClassifier(n_estimators=NUM_TREES, min_samples_leaf=5, random_state=seed)
    return _cross_validated(forest, np.concatenate([first, second]), seed)


def sequence_classifier_accuracy(first: np.ndarray, second: np.ndarray, seed: int = 0) -> float:
    """Return how well MiniRocket (arXiv 2012.08791) tells two sets of as many sequences `(N, L, 3)` apart, in cross-validation.

    That is aeon's transform, and the classifier that aeon's own `MiniRocketClassifier` puts behind it; L is at least 9.
    """
    import torch  # here, so that who asks this module for names alone does not wait for it
    from aeon.transformations.collection.convolution_based import MiniRocket
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    sequences = np.concatenate([first, second]).transpose(0, 2, 1).astype(np.float32)
    # aeon seeds the generator that everybody shares, and numba sets the threads of an OpenMP that is torch's too.
    state, threads = np.random.get_state(), torch.get_num_threads()
    try:
        # Once for all folds: it takes its thresholds from the sequences, whichever set they are of.
        features = MiniRocket(n_kernels=NUM_KERNELS, random_state=seed).fit_transform(sequences)
    finally:
        np.random.set_state(state)
        torch.set_num_threads(threads)
    ridge = RidgeClassifierCV(alphas=np.logspace(-3, 3, 10))
    return _cross_validated(make_pipeline(StandardScaler(with_mean=False), ridge), features, seed)


def _cross_validated(classifier: Any, both: np.ndarray, seed: int) -> float:
    """Return the accuracy of a classifier on two sets of as many rows, one after the other."""
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=seed)
    return float(cross_val_score(classifier, both, np.repeat([0, 1], len(both) // 2), cv=folds).mean())


def feature_accuracies(first: Described, second: Described, seed: int = 0) -> dict[str, float]:
    """Return how well each feature alone tells two sets apart: a decision tree that cuts it into at most 20 intervals."""
    from sklearn.tree import DecisionTreeClassifier

    # Intervals of some tens of sequences: a forest finds no more in a single feature, and takes twenty times as long.
    tree = DecisionTreeClassifier(max_leaf_nodes=NUM_BINS, min_samples_leaf=MIN_SEQUENCES // 4, random_state=seed)
    both = np.concatenate([first.features, second.features])
    return {name: _cross_validated(tree, both[:, [index]], seed) for index, name in enumerate(first.names)}


def on_grid(actions: np.ndarray) -> np.ndarray:
    """Return actions `(N, L, 3)` as a screen of 1920 x 1080 pixels holds them."""
    return np.round(np.asarray(actions, np.float64) * GRID) / GRID


def without_rests(actions: np.ndarray) -> np.ndarray:
    """Return actions `(N, L, 3)` of which only the steps count that go further than `features.REST`, or change the press.

    The others are cut out of each sequence, and those that are left, the first step always among them, are drawn out to L
    steps again: x and y linearly, the press as it was last. When a pointer rests, and how long, is seen no more.
    """
    actions = np.asarray(actions, np.float64)
    changed = np.diff(actions[..., PRESS] > PRESS_THRESHOLD, axis=1)
    changed |= np.linalg.norm(np.diff(actions[..., :PRESS], axis=1), axis=-1) >= REST
    kept = np.pad(changed, ((0, 0), (1, 0)), constant_values=True)
    result = np.empty_like(actions)
    for sequence, keep, drawn_out in zip(actions, kept, result, strict=True):
        left = sequence[keep]
        at = np.linspace(0, len(left) - 1, len(sequence))
        for channel in (X, Y):
            drawn_out[:, channel] = np.interp(at, np.arange(len(left)), left[:, channel])
        drawn_out[:, PRESS] = left[(at + 1e-9).astype(int), PRESS]  # a whole step may come out as 2.9999...
    return result


def _judge(name: str, accuracy: Callable[..., float], sides: Sequence[np.ndarray], seed: int, num=NUM_JUDGED) -> Measurement:
    """Plan the accuracy of one judge, drawn and real sides as it takes them."""
    drawn, real = sides
    label = "realism, MiniRocket (compiles at its first use)" if accuracy is sequence_classifier_accuracy else "realism"
    return Measurement(lambda first, second: {name: accuracy(first, second, seed)}, drawn, real, num, label)


def _variants(samples: np.ndarray, real: np.ndarray, seed: int) -> list[Measurement]:
    """Plan the second judge of the actions as they are, and both judges of them changed."""
    name, long_enough = "sequence_classifier_accuracy", real.shape[1] >= MIN_STEPS
    plan = [_judge(name, sequence_classifier_accuracy, (samples, real), seed)] if long_enough else []
    for variant, change in (("on_grid", on_grid), ("without_rests", without_rests)):
        sides = [change(actions) for actions in (samples, real)]
        features = [Described.of(actions).features for actions in sides]
        plan.append(_judge(f"classifier_accuracy_{variant}", classifier_accuracy, features, seed))
        if long_enough:
            plan.append(_judge(f"{name}_{variant}", sequence_classifier_accuracy, sides, seed))
    return plan


def _stretches(samples: np.ndarray, real: np.ndarray, seed: int) -> list[Measurement]:
    """Plan the second judge of each of ten stretches of time, or of as many as are long enough for it."""
    length = real.shape[1]
    ends = np.linspace(0, length, min(NUM_STRETCHES, length // MIN_STEPS) + 1).astype(int).tolist()
    return [
        _judge(f"{at} to {end - 1}", sequence_classifier_accuracy, (samples[:, at:end], real[:, at:end]), seed, num=1)
        for at, end in pairwise(ends)
    ]


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two sets of features `(N, F)`.

    The trace of the root is that of (C1^(1/2) C2 C1^(1/2))^(1/2), which is symmetric: no features that never vary, which
    make C singular, disturb it.
    """
    means = [features.mean(axis=0) for features in (first, second)]
    covariances = [np.cov(features, rowvar=False) for features in (first, second)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    trace_of_root = np.sqrt(np.linalg.eigvalsh(root @ covariances[1] @ root).clip(min=0)).sum()
    distance = ((means[0] - means[1]) ** 2).sum() + np.trace(covariances[0] + covariances[1]) - 2 * trace_of_root
    return max(0.0, float(distance))


def js_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Jensen-Shannon distance to base 2 of two histograms `(B,)` of counts: 0 is the same, 1 is disjoint."""
    from scipy.spatial.distance import jensenshannon

    # Rounding can take the root of -1e-17.
    return float(np.nan_to_num(jensenshannon(first, second, base=2)))


def _bin_edges(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return edges between which equally many of all values lie, as far as equal values allow."""
    edges = np.unique(np.quantile(np.concatenate([first, second]), np.linspace(0, 1, NUM_BINS + 1)))
    return edges if len(edges) > 1 else edges[0] + np.array([-0.5, 0.5])
