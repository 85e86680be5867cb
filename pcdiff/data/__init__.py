"""Making and fetching data sets."""

from pcdiff.data.fetch import fetch
from pcdiff.data.halos import make_halos
from pcdiff.data.jets import make_jets
from pcdiff.data.toys import toy

__all__ = ["fetch", "make_halos", "make_jets", "toy"]
