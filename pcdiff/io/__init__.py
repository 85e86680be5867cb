"""Reading and writing point clouds: one module per file format behind one registry."""

from pcdiff.io.part import part
from pcdiff.io.registry import Column, Description, Format, formats, inspect, iterate, read, write

__all__ = ["Column", "Description", "Format", "formats", "inspect", "iterate", "part", "read", "write"]
