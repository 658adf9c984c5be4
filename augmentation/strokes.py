"""Strokes: movements along a line or an arc, by the minimum-jerk profile or as the Sigma-Lognormal model has a hand make them.

In the Sigma-Lognormal model (Plamondon and Djioua 2006, Human Movement Science 25(4-5), 586-607; O'Reilly and Plamondon 2009,
Pattern Recognition 42(12), 3324-3337) a movement is the vector sum of strokes that overlap in time. Stroke j begins at t_j,
runs along an arc of length D_j, and has the speed and the direction

    |v_j(t)| = D_j / (sigma_j sqrt(2 pi) (t - t_j)) exp(-(ln(t - t_j) - mu_j)^2 / (2 sigma_j^2))
    phi_j(t) = theta_j + Delta_j F_j(t),    F_j(t) = (1 + erf((ln(t - t_j) - mu_j) / (sigma_j sqrt(2)))) / 2

so that the direction turns by Delta_j in all, in proportion to the way behind, and the place is known in closed form: the
integral of exp(i Delta f) over f from 0 to F is F exp(i Delta F / 2) sinc(Delta F / 2).

Places are complex here, x + i y, in units in which a circle is round.
"""

import math
from typing import NamedTuple

import numpy as np

RATE_HZ = 100  # steps a second of human gestures
TAIL = 3.0  # a lognormal stroke ends this many sigmas beyond its median, where .9987 of the way is behind
SIGMAS = (0.2, 0.35)  # of lognormal strokes: the speed is highest at .53 to .31 of their time
BEND = 0.25  # deviation of Delta, radians
REACH, AIM = (0.94, 0.05), 0.04  # of the first sub-movement: mean and deviation of its share of the way; of its angle, radians
TREMOR_HZ = (8.0, 12.0)  # physiological tremor
TREMOR_SIZE = (0.0003, 0.0012)  # of the shorter side of the screen
ARCS = 4  # sub-movements of a circle


class Strokes(NamedTuple):
    """N gestures of J strokes each: where they start, `(N,)`, and of each stroke, `(N, J)`:

    - `way`: its length and first direction, D exp(i theta); 0 is none.
    - `turn`: Delta, the angle by which it turns.
    - `begin`, `end`: the steps between which it is made.
    - `cut`: the share of its time after which it is broken off, at its whole way; 1 is never.
    - `sigma`: of the lognormal; 0 is the minimum-jerk profile.
    """

    origin: np.ndarray
    way: np.ndarray
    turn: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    cut: np.ndarray
    sigma: np.ndarray

    def of(self, rows: np.ndarray) -> "Strokes":
        """Return the strokes of some of the gestures."""
        return Strokes(*(values[rows] for values in self))


def make_strokes(origin, way, begin, end, turn=0.0, cut=1.0, sigma=0.0) -> Strokes:
    """Return strokes; what is a single number holds for all."""
    return Strokes(origin, way, *(np.broadcast_to(values, way.shape) for values in (turn, begin, end, cut, sigma)))


def lognormal_progress(time: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return the share of the way behind at a share of the time, of a lognormal stroke that ends at 1 (`TAIL`)."""
    argument = (np.log(time) / sigma + TAIL) / math.sqrt(2)
    return (1 + np.vectorize(math.erf, otypes=[float])(argument)) / (1 + math.erf(TAIL / math.sqrt(2)))


def minimum_jerk_progress(time: np.ndarray) -> np.ndarray:
    return time**3 * (10 + time * (6 * time - 15))


def progress(strokes: Strokes, stroke: int, length: int) -> np.ndarray:
    """Return the share of its way that a stroke has made at each step, `(N, L)`: exactly 0 before it and exactly 1 after it."""
    begin, end, cut, sigma = (values[:, stroke, None] for values in strokes[3:])
    time = (np.arange(length) - begin) / np.maximum(end - begin, 1e-9)
    made = (time >= 1).astype(np.float64)
    row, step = np.nonzero((time > 0) & (time < 1))
    time, cut, sigma = time[row, step], cut[row, 0], sigma[row, 0]
    hand = sigma > 0
    share = minimum_jerk_progress(time * cut) / minimum_jerk_progress(cut)
    share[hand] = lognormal_progress((time * cut)[hand], sigma[hand]) / lognormal_progress(cut[hand], sigma[hand])
    made[row, step] = share
    return made


def trace(strokes: Strokes, length: int) -> np.ndarray:
    """Return the places at each step, complex `(N, length)`: at rest, to the last bit, where no stroke is made."""
    places = np.repeat(strokes.origin[:, None], length, axis=1)
    for stroke in range(strokes.way.shape[1]):
        made = progress(strokes, stroke, length)
        half = strokes.turn[:, stroke, None] * made / 2
        places += strokes.way[:, stroke, None] * (made * np.sinc(half / np.pi) * np.exp(1j * half))
    return places


def chords(strokes: Strokes) -> np.ndarray:
    """Return where each stroke leads, seen from where it starts: complex `(N, J)`."""
    half = strokes.turn / 2
    return strokes.way * np.sinc(half / np.pi) * np.exp(1j * half)


def humanize(strokes: Strokes, rng: np.random.Generator) -> Strokes:
    """Return the strokes as a hand makes them: lognormal, bent, and in sub-movements that overlap.

    A straight stroke becomes two: the first reaches its end nearly, and the second, from the middle of the time on, makes up
    for the rest. One that turns, or is broken off, is not corrected; one that turns is made of `ARCS`.
    """
    if np.abs(strokes.turn).max() > np.pi:
        strokes = divide(strokes)
    shape, chord = strokes.way.shape, chords(strokes)
    first = chord * rng.normal(*REACH, shape) * np.exp(1j * rng.normal(0, AIM, shape))
    straight = strokes.turn == 0
    second = np.where(straight & (strokes.cut == 1), chord - first, 0)
    turn = strokes.turn + rng.normal(0, BEND, shape) * straight
    span = strokes.end - strokes.begin
    overlap = np.where(second == 0, 1.0, rng.uniform(0.7, 0.95, shape))
    half = turn / 2
    first = first / (np.sinc(half / np.pi) * np.exp(1j * half))  # the arc over the chord
    late = strokes.begin + span * rng.uniform(0.4, 0.6, shape)
    return Strokes(
        strokes.origin,
        way=np.concatenate([first, second], axis=1),
        turn=np.concatenate([turn, np.zeros(shape)], axis=1),
        begin=np.concatenate([strokes.begin, late], axis=1),
        end=np.concatenate([strokes.begin + span * overlap, strokes.end], axis=1),
        cut=np.concatenate([strokes.cut, strokes.cut], axis=1),
        sigma=rng.uniform(*SIGMAS, (shape[0], 2 * shape[1])),
    )


def divide(strokes: Strokes) -> Strokes:
    """Return each stroke as `ARCS` of the same turn, each of which begins when a third of the one before is over."""
    way, turn, begin, end, cut, sigma = (np.repeat(values, ARCS, axis=1) for values in strokes[1:])
    arc = np.tile(np.arange(ARCS), strokes.way.shape[1])
    begin, lasts = begin + (end - begin) * arc / (ARCS + 2), 3 * (end - begin) / (ARCS + 2)
    way = way / ARCS * np.exp(1j * turn * arc / ARCS)
    return Strokes(strokes.origin, way, turn / ARCS, begin, begin + lasts, cut, sigma)


def tremor(strokes: Strokes, length: int, rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
    """Return the tremor of a hand that makes these strokes, complex `(len(rows), length)`, exactly 0 where it rests.

    On each axis three sines of `TREMOR_HZ`, which swell and fade with each stroke. It is drawn for all of the gestures, so that
    none depends on which others are asked for.
    """
    shape = (len(strokes.origin), 2, 3)
    size = rng.uniform(*TREMOR_SIZE, shape[:1])[rows, None]
    frequency, phase = rng.uniform(*TREMOR_HZ, shape)[rows, ..., None], rng.uniform(0, 2 * np.pi, shape)[rows, ..., None]
    step = np.arange(length)
    sines = np.sin(2 * np.pi * frequency * step / RATE_HZ + phase).mean(axis=2)  # (N, 2, L)
    swelling = np.zeros((len(rows), length))
    for begin, end, way in zip(
        *(values[rows].T[..., None] for values in (strokes.begin, strokes.end, strokes.way)), strict=True
    ):
        time = (step - begin) / np.maximum(end - begin, 1e-9)
        swelling += np.sin(np.pi * time) ** 2 * ((time > 0) & (time < 1) & (way != 0))
    return size * swelling * (sines[:, 0] + 1j * sines[:, 1])
