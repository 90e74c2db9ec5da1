"""The addresses by which the web process counts its clients."""

import pytest

from taskqueue.monitor.web.clients import behind_proxy, network


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2::7", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_an_ipv6_address_counts_as_its_network(address, counted):
    assert network(address) == counted


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("198.51.100.1, 192.0.2.7", "192.0.2.7"),
        ("198.51.100.1,2001:db8::7 ", "2001:db8::7"),
        ("192.0.2.7, unknown", ""),
        ("192.0.2.7,", ""),
        ("192.0.2.7:4711", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_the_last_forwarded_address_is_that_of_the_trusted_proxys_client(forwarded, client):
    assert behind_proxy(forwarded) == client
