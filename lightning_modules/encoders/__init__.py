"""Encoders of local descriptors and of series of frames into one vector a video, and kernels of such vectors.

Source: Fisher vectors of dense trajectories (Wang & Schmid 2013), rank pooling (Fernando et al. 2015).
"""


def require_scikit_learn(what: str) -> None:
    """Refuse what needs scikit-learn where that is not installed.

    Raises:
        ImportError: it is not; says how to install it.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{what} needs scikit-learn ({error}): pip install -e '.[systems]'") from error
