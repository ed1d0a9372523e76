"""A linear probe: what a linear classifier reads off frozen features.

Letters: `N` examples, `D` width, `C` classes.
"""

import dataclasses

import numpy as np

_PENALTY = 1e-3  # per squared weight, beside the mean loss of an example


@dataclasses.dataclass(frozen=True, eq=False)
class LinearProbe:
    """Softmax regression on standardised features.

    Attributes:
      mean, scale: float64 [D], of the features it was fitted on.
      weights: float64 [D + 1, C], the last row for a constant.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Returns the most likely class of each of `features` [N, D], int64 [N]."""
        return np.argmax(self.log_probabilities(features), axis=1)

    def log_probabilities(self, features: np.ndarray) -> np.ndarray:
        """Returns the logarithm of the probability of each class for each of `features` [N, D], float64 [N, C]."""
        from scipy.special import log_softmax

        return log_softmax(_with_constant((features - self.mean) / self.scale) @ self.weights, axis=1)

    def accuracy(self, features: np.ndarray, labels: np.ndarray) -> float:
        """Returns the share of `features` [N, D] whose most likely class is the one in `labels` int [N]."""
        return float(np.mean(self.predict(features) == labels))


def fit_probe(features: np.ndarray, labels: np.ndarray, classes: int) -> LinearProbe:
    """Fits a probe to its optimum, which is one and does not depend on a start.

    Args:
      features: [N, D].
      labels: int [N], 0 to `classes` - 1.
      classes: C.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    features = np.asarray(features, np.float64)
    mean, spread = features.mean(axis=0), features.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    x, one_hot = _with_constant((features - mean) / scale), np.eye(classes)[labels]
    penalty = np.append(np.full(x.shape[1] - 1, _PENALTY), 0.0)[:, None]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(-1, classes)
        log_p = log_softmax(x @ weights, axis=1)
        gradient = x.T @ (np.exp(log_p) - one_hot) / len(x) + 2 * penalty * weights
        return float(np.sum(penalty * weights**2) - np.sum(log_p * one_hot) / len(x)), gradient.ravel()

    start = np.zeros(x.shape[1] * classes)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return LinearProbe(mean, scale, found.x.reshape(-1, classes))


def _with_constant(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)
