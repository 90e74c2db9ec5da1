"""Fixtures of the tests of faults."""

from support.feeds import feed
from support.site import python, site, site_directory
from support.work import work

__all__ = ["feed", "python", "site", "site_directory", "work"]
