"""How real drawn actions look beside held-out ones, where there is no original to compare with.

Each figure stands beside its floor, the same figure between two halves of the real actions. Both are taken from equally
many sequences and averaged over the same random halves, since every one of them depends on the number. Needs scikit-learn
and scipy, the extra `eval`.
"""

import importlib
import math
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from action_ddim.actions import moves
from action_ddim.data.features import GESTURE_TYPES, action_features, gesture_types, type_shares
from action_ddim.errors import UserError

MIN_SEQUENCES = 100  # on either side; with fewer the floors are as large as what they are to be compared with
MAX_SEQUENCES = 1000  # on either side; a classifier learns hardly more from more, and takes its time
NUM_HALVINGS = 5
NUM_FOLDS = 5
NUM_BINS = 20
DISTRIBUTIONS = ("duration", "path_length", "peak_speed", "press_time")


@dataclass(frozen=True)
class Comparison:
    """A figure and its floor, means over the halvings."""

    value: float
    floor: float


@dataclass(frozen=True)
class Realism:
    """Figures of realism by name, from `num_sequences` a side; no figures, and a reason, where there were too few.

    - `classifier_accuracy`: share of sequences that a classifier tells apart rightly, drawn from real (Lopez-Paz and Oquab,
      arXiv 1610.06545): a random forest on `features.action_features`, in 5-fold cross-validation. 0.5 is perfect.
    - `frechet_distance`: squared Frechet distance between Gaussians fitted to the features (as in arXiv 1706.08500,
      equation 6), which are in their own units, all of the order of 1.
    - `js_duration`, `js_path_length`, `js_peak_speed`, `js_press_time`: Jensen-Shannon distance to base 2, in [0, 1], of
      histograms of a feature over 20 bins that hold equally many of all sequences.
    - `js_gesture_type`: the same of the shares of the gesture types.

    `type_shares` holds the share of each gesture type among the `drawn` and the `real` sequences.
    """

    num_sequences: int
    figures: dict[str, Comparison]
    type_shares: dict[str, dict[str, float]]
    reason: str = ""


def check_eval_packages() -> None:
    """Raise a UserError where scikit-learn or scipy is missing."""
    for package, library in (("scipy", "scipy"), ("sklearn", "scikit-learn")):
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
    shares = dict(zip(GESTURE_TYPES, type_shares(actions).tolist(), strict=True))
    one_press = (action_features(actions)["num_presses"] == 1).mean()
    return {**shares, "one_press": float(one_press), "exact_rests": float(1 - moves(actions).mean())}


def distances(drawn: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Return how far drawn actions `(M, L, 3)` are from real ones `(N, L, 3)` at a glance; 0 is the best.

    - `frechet_distance`: as in `Realism`, without its floor, which is the larger the fewer the sequences; NaN with one of them.
    - `type_distance`: total variation distance of the shares of the gesture types, in [0, 1].
    - `one_press_gap`, `exact_rests_gap`: absolute differences of the shares of `describe`.
    """
    first, second = describe(drawn), describe(real)
    gaps = {name: abs(first[name] - second[name]) for name in first}
    features = [np.stack(list(action_features(actions).values()), axis=1) for actions in (drawn, real)]
    return {
        "frechet_distance": frechet_distance(*features) if min(len(drawn), len(real)) > 1 else math.nan,
        "type_distance": sum(gaps[name] for name in GESTURE_TYPES) / 2,
        "one_press_gap": gaps["one_press"],
        "exact_rests_gap": gaps["exact_rests"],
    }


def measure_realism(samples: np.ndarray, real: np.ndarray, seed: int = 0) -> Realism:
    """Compare drawn actions `(M, L, 3)` with real ones `(N, L, 3)`; a pure function of its arguments.

    Raises:
        UserError: scikit-learn or scipy is missing.
    """
    check_eval_packages()
    count = min(len(samples), len(real) // 2, MAX_SEQUENCES)
    shares = {
        name: dict(zip(GESTURE_TYPES, type_shares(actions).tolist(), strict=True))
        for name, actions in (("drawn", samples), ("real", real))
    }
    if count < MIN_SEQUENCES:
        reason = (
            f"not computed from {len(samples)} drawn and {len(real)} real sequences:"
            f" it takes {MIN_SEQUENCES} drawn and {2 * MIN_SEQUENCES} real ones"
        )
        return Realism(count, {}, shares, reason)
    drawn, held_out = Described.of(samples), Described.of(real)
    edges = {name: _bin_edges(drawn.column(name), held_out.column(name)) for name in DISTRIBUTIONS}
    rng = np.random.default_rng(seed)
    values: list[dict[str, float]] = []
    floors: list[dict[str, float]] = []
    with tqdm(total=2 * NUM_HALVINGS, unit="comparison", desc="realism", disable=None, leave=False) as progress:
        for _ in range(NUM_HALVINGS):
            first, second = (held_out.take(half) for half in rng.permutation(len(real))[: 2 * count].reshape(2, count))
            subset = drawn.take(rng.permutation(len(samples))[:count])
            for found, other in ((values, subset), (floors, second)):
                found.append(_compare(other, first, edges, seed))
                progress.update()
    figures = {
        name: Comparison(float(np.mean([value[name] for value in values])), float(np.mean([floor[name] for floor in floors])))
        for name in values[0]
    }
    return Realism(count, figures, shares)


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

    def take(self, rows: np.ndarray) -> "Described":
        return Described(self.names, self.features[rows], self.types[rows])

    def column(self, name: str) -> np.ndarray:
        return self.features[:, self.names.index(name)]


def _compare(first: Described, second: Described, edges: dict[str, np.ndarray], seed: int) -> dict[str, float]:
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
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    labels = np.repeat([0, 1], [len(first), len(second)])
    # A leaf of several sequences keeps the trees from learning their noise by heart.
    forest = RandomForestClassifier(n_estimators=50, min_samples_leaf=5, random_state=seed)
    folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=seed)
    return float(cross_val_score(forest, np.concatenate([first, second]), labels, cv=folds).mean())


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
