"""What the tests of processes share."""

from support.site import python, site, site_directory
from support.work import work

__all__ = ["python", "site", "site_directory", "work"]
