"""Making and fetching data sets."""

from pcdiff.data.fetch import fetch
from pcdiff.data.jets import make_jets
from pcdiff.data.toys import toy

__all__ = ["fetch", "make_jets", "toy"]
