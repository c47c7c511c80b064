"""Who wins the pairs: Bradley–Terry strengths, on the scale of log odds, with intervals."""

import choix
import numpy as np

from approach.review.ratings import Ratings
from approach.review.resampling import Draws, describe

# choix adds this rate to each transition of its Markov chain, in both directions. A win counts as 1 / (w_i + w_j)
# there, where w is the exponential of a strength and all w have a mean of 1. So each of two systems is taken to have
# won 0.1 · (w_i + w_j) pairs against the other, which is no fixed number. Without it, the strength of a control that
# always loses would have no end.
REGULARISATION = 0.1
MAX_ITERATIONS = 10_000


def measure_strengths(ratings: Ratings, draws: Draws) -> list[dict]:
    """Each system's strength, their mean being 0, and the share of its pairs that it won; a tie is half a win."""
    wins = count_wins(ratings, draws)
    strengths = np.array([fit(matrix) for matrix in wins])
    played = (wins + wins.transpose(0, 2, 1)).sum(axis=2)
    shares = np.divide(wins.sum(axis=2), played, out=np.full(played.shape, np.nan), where=played > 0)
    strengths[played == 0] = np.nan  # a system in no pair of a draw: the strength would be the regularisation's
    return [
        {
            "strength": describe(strengths[:, system], int(played[0, system])),
            "won": describe(shares[:, system], int(played[0, system])),
        }
        for system in range(len(ratings.systems))
    ]


def count_wins(ratings: Ratings, draws: Draws) -> np.ndarray:
    """How often system i won against system j in each draw, `(draws, systems, systems)`."""
    size = len(ratings.systems)
    weights = draws.weights(ratings.pairs)
    outcomes = np.zeros((len(ratings.pairs), size, size))
    for place, pair in enumerate(ratings.pairs):
        first, second = pair.systems
        outcomes[place, first, second] = (1 + pair.preferred) / 2
        outcomes[place, second, first] = (1 - pair.preferred) / 2
    return np.tensordot(weights, outcomes, axes=1)


def fit(wins: np.ndarray) -> np.ndarray:
    """The strengths by iterative Luce spectral ranking, `(systems,)`."""
    found = choix.ilsr_pairwise_dense(wins, alpha=REGULARISATION, max_iter=MAX_ITERATIONS, tol=1e-6)
    return found - found.mean()
