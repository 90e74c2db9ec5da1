"""Users and tokens of the monitor: the file, the hashes, the rights, and what slows down guessing."""

import hashlib
import json
import stat
from dataclasses import replace

import pytest

from taskqueue.errors import ConfigError
from taskqueue.monitor.record import Filter
from taskqueue.monitor.web import throttle, users
from taskqueue.monitor.web.rights import ADMIN, OPERATOR, ROLES, VIEWER, NoRight, Rights
from taskqueue.monitor.web.throttle import Throttle
from taskqueue.monitor.web.users import Accounts, UserError, UserFile

PASSWORD = "correct horse"
CHEAP = {"n": 2, "r": 8, "p": 1}  # of tests that are not about the hash
LIMITED = Rights("ann", VIEWER, frozenset(("north", "south")), ("image-*", "digest"), bodies=False)


@pytest.fixture
def file(tmp_path):
    return UserFile(tmp_path / "users.json")


# --- the file ---


def test_a_user_is_found_by_the_password_and_by_no_other(file):
    file.add(users.user(LIMITED, PASSWORD, CHEAP))
    accounts = UserFile(file.path).read()
    assert accounts.with_password("ann", PASSWORD).rights == LIMITED
    assert accounts.with_password("ann", PASSWORD.upper()) is None
    assert accounts.with_password("bob", PASSWORD) is None


def test_the_hash_is_the_scrypt_of_rfc_7914(file):
    file.add(users.user(LIMITED, PASSWORD))
    (stored,) = json.loads(file.path.read_text())["accounts"]
    cost = stored["scrypt"]
    assert cost["n"] >= 2**14
    made = hashlib.scrypt(
        PASSWORD.encode(), salt=bytes.fromhex(stored["salt"]), dklen=32, maxmem=2**26, **cost
    )
    assert made.hex() == stored["hash"]


def test_two_users_with_one_password_have_different_hashes(file):
    first, second = (users.user(replace(LIMITED, user=name), PASSWORD, CHEAP) for name in ("ann", "bob"))
    assert first.hash != second.hash


def test_a_token_is_found_by_its_secret_and_only_its_hash_is_kept(file):
    account, secret = users.token(Rights("ci", OPERATOR))
    file.add(account)
    assert secret not in file.path.read_text()
    assert hashlib.sha256(secret.encode()).hexdigest() in file.path.read_text()
    assert UserFile(file.path).read().with_token(secret).rights == Rights("ci", OPERATOR)
    assert file.read().with_token(secret[:-1]) is None
    assert file.read().with_password("ci", secret) is None, "a token is no password"


def test_the_file_can_be_read_by_its_group_and_by_nobody_else(file):
    file.add(users.user(LIMITED, PASSWORD, CHEAP))
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o640
    assert [path.name for path in file.path.parent.iterdir()] == ["users.json"]


def test_a_name_is_given_once(file):
    file.add(users.user(LIMITED, PASSWORD, CHEAP))
    with pytest.raises(UserError, match="a user 'ann' exists already"):
        file.add(users.token(LIMITED)[0])


def test_a_removed_user_is_gone_at_once(file):
    reader = UserFile(file.path)
    file.add(users.user(LIMITED, PASSWORD, CHEAP))
    assert "ann" in reader.read().by_name
    with pytest.raises(UserError, match="there is no token 'ann'"):
        file.remove("ann", is_token=True)
    file.remove("ann", is_token=False)
    assert reader.read() == Accounts({})


def test_without_a_file_there_is_nobody(file):
    assert file.read().by_name == {}


UNKNOWN_ROLE = json.dumps(
    {"version": 1, "accounts": [{"name": "x", "kind": "token", "role": "god", "tenants": [], "types": [],
                                 "bodies": True, "hash": "00" * 32, "salt": ""}]}
)  # fmt: skip
TOKEN_WITHOUT_HASH = UNKNOWN_ROLE.replace("god", "admin").replace("00" * 32, "")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "null", "{", '{"version": 2, "accounts": []}', '{"version": 1, "accounts": [{}]}',
     '{"version": 1, "accounts": [1]}', "[" * 10_000, "\xff",
     UNKNOWN_ROLE, TOKEN_WITHOUT_HASH],
)  # fmt: skip
def test_a_damaged_file_is_an_error_of_one_line(file, content):
    file.path.write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match="expected what `taskqueue monitor user` writes") as caught:
        file.read()
    assert "\n" not in str(caught.value)
    assert str(file.path) in str(caught.value)


@pytest.mark.parametrize("name", ["", "-x", "a b", "a:b", "x" * 65, "a\n", "ä", "../x"])
def test_a_name_that_cannot_be_typed_or_logged_is_refused(name):
    with pytest.raises(UserError, match="name: expected 1 to 64"):
        users.user(replace(LIMITED, user=name), PASSWORD)


@pytest.mark.parametrize("password", ["", "1234567", "x" * 1025])
def test_a_password_that_is_too_short_or_too_long_is_refused(password):
    with pytest.raises(UserError, match="password: expected 8 to 1024 characters"):
        users.user(LIMITED, password)


# --- rights ---


def test_each_role_may_do_what_those_before_it_may():
    may = {role: [each for each in ROLES if Rights("x", role).may(each)] for role in ROLES}
    assert may == {VIEWER: [VIEWER], OPERATOR: [VIEWER, OPERATOR], ADMIN: [VIEWER, OPERATOR, ADMIN]}


@pytest.mark.parametrize(
    ("tenant", "worker_type", "sees"),
    [
        ("north", "digest", True),
        ("south", "image-small", True),
        ("east", "digest", False),
        ("", "digest", False),
        ("north", "image", False),
        ("north", "Digest", False),
    ],
)
def test_a_limited_user_sees_only_what_is_in_both_limits(tenant, worker_type, sees):
    assert LIMITED.sees(worker_type, tenant) is sees


KNOWN = ("digest", "image-small", "image-large", "mail")


def test_a_filter_without_conditions_gets_those_of_the_rights():
    narrowed = LIMITED.narrow(Filter(), KNOWN)
    assert narrowed.tenants == {"north", "south"}
    assert narrowed.worker_types == {"digest", "image-small", "image-large"}


def test_a_filter_is_never_wider_than_the_rights():
    asked = Filter(tenants=frozenset(("north", "east")), worker_types=frozenset(("mail", "digest")))
    narrowed = LIMITED.narrow(asked, KNOWN)
    assert (narrowed.tenants, narrowed.worker_types) == ({"north"}, {"digest"})


@pytest.mark.parametrize(
    "asked", [Filter(tenants=frozenset(("east",))), Filter(worker_types=frozenset(("mail",)))]
)
def test_a_filter_beside_the_rights_selects_nothing_and_not_all(asked):
    assert LIMITED.narrow(asked, KNOWN) is None


def test_patterns_that_fit_no_known_type_select_nothing_and_not_all():
    assert LIMITED.narrow(Filter(), ["mail"]) is None


def test_patterns_of_a_filter_select_known_types_within_the_rights():
    asked = Filter(worker_types=frozenset(("image-*", "d?gest", "mail", "gone")))
    everything = Rights("root", VIEWER).narrow(asked, KNOWN)
    assert everything.worker_types == {"image-small", "image-large", "digest", "mail", "gone"}
    assert LIMITED.narrow(asked, KNOWN).worker_types == {"image-small", "image-large", "digest"}
    assert Rights("root", VIEWER).narrow(Filter(worker_types=frozenset(("zzz*",))), KNOWN) is None


def test_an_unlimited_user_gets_the_filter_as_it_is():
    asked = Filter(tenants=frozenset(("east",)), label="x")
    assert Rights("root", VIEWER).narrow(asked, KNOWN) == asked


def test_who_may_not_see_bodies_may_not_search_in_them():
    with pytest.raises(NoRight, match="may not see bodies"):
        LIMITED.narrow(Filter(body_text="secret"), KNOWN)
    assert replace(LIMITED, bodies=True).narrow(Filter(body_text="secret"), KNOWN).body_text == "secret"


# --- slowing down ---


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def said():
    return []


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def slowing(said, clock):
    return Throttle(said.append, clock)


def test_failures_are_free_at_first_and_then_wait_ever_longer(slowing, clock):
    waits = []
    for _ in range(throttle.FREE + 8):
        slowing.failed("10.0.0.1", "ann")
        waits.append(slowing.wait("10.0.0.1", "ann"))
        clock.now += waits[-1]
    assert waits[: throttle.FREE - 1] == [0.0] * (throttle.FREE - 1)
    assert waits[throttle.FREE - 1 :] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert slowing.wait("10.0.0.2", "ann") == 0


def test_a_login_that_succeeds_ends_the_slowing_down(slowing):
    for _ in range(throttle.FREE):
        slowing.failed("10.0.0.1", "ann")
    slowing.succeeded("10.0.0.1", "ann")
    assert slowing.wait("10.0.0.1", "ann") == 0


def test_an_address_that_tries_many_names_is_slowed_down_for_all(slowing):
    for number in range(10 * throttle.FREE):
        slowing.failed("10.0.0.1", f"name{number}")
    assert slowing.wait("10.0.0.1", "another") > 0


def test_a_burst_is_logged_once_and_a_later_one_again(slowing, said, clock):
    for _ in range(20):
        slowing.failed("10.0.0.1", "ann")
    assert said == ["failed login as 'ann' from 10.0.0.1; further ones slow down and are not logged"]
    clock.now += 601
    slowing.failed("10.0.0.1", "ann")
    assert len(said) == 2


def test_the_table_is_bounded(slowing):
    for number in range(throttle.MOST):
        slowing.failed(f"10.{number >> 8}.0.{number & 255}", "ann")
    assert len(slowing) == throttle.MOST
