"""The monitor's pages: HTML made by the server, which needs no script to be read, filtered and used."""
