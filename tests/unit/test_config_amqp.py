import json

import pytest
from support.configs import SECRET, SEED

from taskqueue.config import AmqpSettings, Settings, effective, load, load_amqp
from taskqueue.errors import ConfigError


def test_a_host_is_completed_with_the_defaults(read):
    assert read("[amqp]\nhost: rabbit\n").amqp == AmqpSettings(hosts=(("rabbit", 5672),))
    assert read("[amqp]\nhost: rabbit\nssl: yes\n").amqp == AmqpSettings(hosts=(("rabbit", 5671),), ssl=True)


def test_every_option_of_the_address_is_read(read, tmp_path):
    pem = tmp_path / "pem"
    pem.touch()
    settings = read(f"""
[amqp]
hosts: a, b:5673, [::1], [::2]:7
port: 5700
user: me
passwd: {SECRET}
vhost: /x
heartbeat: 0
ssl: on
ca_file: {pem}
cert_file: {pem}
key_file: {pem}
""")
    hosts = (("a", 5700), ("b", 5673), ("::1", 5700), ("::2", 7))
    assert settings.amqp == AmqpSettings(hosts, "me", SECRET, "/x", 0, ssl=True, ca_file=str(pem),
                                         cert_file=str(pem), key_file=str(pem))  # fmt: skip


def test_queue_types_are_left_to_the_broker_unless_named(read):
    bare = read("[amqp]\nhost: a\n").amqp
    assert (bare.queue_type, bare.shared_queue_type) == ("default", "default")
    named = read("[amqp]\nurl: amqp://a\nqueue_type: quorum\nshared_queue_type: Classic\n").amqp
    assert (named.queue_type, named.shared_queue_type) == ("quorum", "classic")


def test_further_users_are_trusted_if_they_are_named(read):
    bare = read("[amqp]\nhost: a\nuser: me\n").amqp
    assert (bare.trusted_users, bare.signature) == ((), "me")
    named = read("[amqp]\nurl: amqp://me:x@a\ntrusted_users: you, the others\n").amqp
    assert (named.trusted_users, named.signature) == (("you", "the others"), "me")
    assert AmqpSettings.from_json(named.to_json()) == named
    assert read("[amqp]\nhost: a\ntrusted_users = *\n").amqp.signature is None
    for wrong in ("you,,me", "*, me"):
        with pytest.raises(ConfigError, match="trusted_users: expected broker users"):
            read(f"[amqp]\nhost: a\ntrusted_users = {wrong}\n")


def test_password_is_another_name_for_passwd(read):
    for name in ("password", "passwd"):
        amqp = read(f"[amqp]\nhost: a\n{name}: {SECRET}\n").amqp
        assert amqp is not None
        assert amqp.password == SECRET


@pytest.mark.parametrize("address", ["host: a", "url: amqp://guest@a"])
def test_the_first_line_of_passwd_file_is_the_password(read, tmp_path, address):
    file = tmp_path / "pw"
    file.write_text(f"{SECRET}\nmore\n")
    amqp = read(f"[amqp]\n{address}\npasswd_file: {file}\n").amqp
    assert amqp == AmqpSettings((("a", 5672),), password=SECRET)


@pytest.mark.parametrize("host", ["::1", "[::1]", "[::1]:5672"])
def test_a_host_may_be_an_ipv6_address(read, host):
    assert read(f"[amqp]\nhost: {host}\n").amqp == AmqpSettings((("::1", 5672),))


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        ("amqp://a", AmqpSettings((("a", 5672),))),
        ("amqps://a", AmqpSettings((("a", 5671),), ssl=True)),
        ("amqp://a/", AmqpSettings((("a", 5672),))),
        ("amqp://u:p@a:1/v", AmqpSettings((("a", 1),), "u", "p", "v")),
        ("amqp://u%40:p%2F%3a@a/%2F", AmqpSettings((("a", 5672),), "u@", "p/:", "/")),
        (
            "amqp://u:p@a,b:2,[::1]:3/v%2fw",
            AmqpSettings((("a", 5672), ("b", 2), ("::1", 3)), "u", "p", "v/w"),
        ),
    ],
)
def test_urls_are_read_and_written(url, settings):
    assert AmqpSettings.from_url(url) == settings
    assert AmqpSettings.from_url(settings.url(masked=False)) == settings


def test_an_url_in_the_file_takes_the_other_options_along(read):
    assert read("[amqp]\nurl: amqp://u:p@a/v\nheartbeat: 5\n").amqp == AmqpSettings(
        (("a", 5672),), "u", "p", "v", 5
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        SECRET,
        f"http://u:{SECRET}@h/",
        f"amqp:/u:{SECRET}@h/",
        f"amqp://u:{SECRET}@",
        f"amqp://u:{SECRET}",
        f"amqp://u:x/{SECRET}@h/",
        f"amqp://u:x@{SECRET}@h/",
        f"amqp://u:x#{SECRET}@h/",
        f"amqp://u:{SECRET}@h:port/",
        f"amqp://u:{SECRET}@h:0/",
        f"amqp://u:{SECRET}@h:65536/",
        f"amqp://u:{SECRET}@h,/",
        f"amqp://u:{SECRET}@h/v?heartbeat=1",
        f"amqp://u:{SECRET}@h/v\n",
    ],
)
def test_a_wrong_url_is_one_clear_fault_without_the_password(url):
    with pytest.raises(ConfigError) as caught:
        AmqpSettings.from_url(url)
    (fault,) = caught.value.faults
    assert str(fault).startswith("AMQP address: expected amqp://user:password@host:port/vhost")
    assert SECRET not in str(caught.value) + repr(caught.value) + repr(fault)
    assert caught.value.__suppress_context__  # a traceback would print the inner error, too


@pytest.mark.parametrize("url", ["http://h/", "localhost:5672", "AMQP:h"])
def test_an_url_of_another_scheme_is_told_so(url):
    with pytest.raises(ConfigError, match="found something that begins with neither amqp:// nor amqps://"):
        AmqpSettings.from_url(url)


def test_json_hands_everything_to_a_child_password_included():
    settings = AmqpSettings((("a", 1), ("b", 2)), "u", SECRET, "/v", 7, ssl=True, ca_file="/ca")
    assert AmqpSettings.from_json(settings.to_json()) == settings
    assert AmqpSettings.from_json(settings.to_json().encode()) == settings


def test_passwords_are_in_no_repr_no_url_and_not_in_the_effective_configuration(read):
    text = f"[amqp]\nhost: a\npassword: {SECRET}\n[worker1]\nDB_Password: {SECRET}\n"
    settings = read(f"{text}db: pg://u:{SECRET}@h:1/d\npath: /x\nmail: pg://u@h\n", mode=0o644)
    printed = json.dumps(effective(settings))
    assert SECRET not in f"{settings!r} {settings} {printed} {settings.amqp.url()} {settings.warnings}"
    assert settings.amqp.url() == "amqp://guest:***@a:5672/%2F"
    assert effective(settings)["groups"][0]["settings"] == {
        "db": "pg://u:***@h:1/d",
        "db_password": "***",
        "mail": "pg://u@h",
        "path": "/x",
    }
    assert dict(settings.groups[0].settings)["db_password"] == SECRET


def test_the_effective_configuration_is_plain_json(read):
    plain = effective(read("[amqp]\nhosts: a, [::1]\n[dispatcher]\nformats: a/b\n[nope]\n", ["worker1"]))
    assert json.loads(json.dumps(plain)) == plain
    assert plain["amqp"]["hosts"] == ["a:5672", "[::1]:5672"]
    assert plain["amqp"]["password"] == "***"
    assert plain["groups"][0]["name"] == "worker1"
    assert plain["workerpool"]["stop_timeout"] == 60
    assert len(plain["warnings"]) == 1
    assert effective(Settings())["amqp"] is None


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\n", b"a\x07b\n"])
def test_a_passwd_file_without_a_password_is_a_fault(faults_of, tmp_path, content):
    file = tmp_path / "pw"
    file.write_bytes(content)
    (fault,) = faults_of(f"[amqp]\nhost: a\npasswd_file: {file}\n")
    assert fault.endswith("pw': no text in its first line")


NO_URL = "no url, or none of host, hosts, port, user, password, passwd, vhost, ssl"
ONE_PASSWORD = "one of password, passwd, passwd_file"
TLS = "an amqps URL or ssl: yes beside it, found a connection without TLS"


@pytest.mark.parametrize(
    ("lines", "option", "expected"),
    [
        ("url: amqp://a\nhost: b", "url", f"{NO_URL}, found url and host"),
        ("url: amqp://a\nport: 1\nvhost: v", "url", f"{NO_URL}, found url and port, vhost"),
        ("host: a\nhosts: b", "hosts", "either host or hosts, found both"),
        ("host: a\npasswd: b\npassword: b", "passwd", f"{ONE_PASSWORD}, found password and passwd"),
        (
            f"host: a\npassword: b\npasswd_file: {SEED}",
            "passwd_file",
            f"{ONE_PASSWORD}, found password and passwd_file",
        ),
        (
            f"url: amqp://u:{SECRET}@a\npasswd_file: {SEED}",
            "url",
            "a password in one place, found one in the URL and passwd_file",
        ),
        (f"host: a\nssl: yes\nkey_file: {SEED}", "key_file", "cert_file beside it, found none"),
        (f"host: a\nca_file: {SEED}", "ca_file", TLS),
        (f"url: amqp://a\nca_file: {SEED}", "ca_file", TLS),
    ],
)
def test_options_of_amqp_that_contradict_each_other_are_a_fault(faults_of, lines, option, expected):
    assert faults_of(f"[amqp]\n{lines}\n") == [f"section [amqp], option {option}: expected {expected}"]


def test_a_wrong_url_is_no_contradiction_to_the_files_of_tls(faults_of):
    (fault,) = faults_of(f"[amqp]\nurl: amqps://\nca_file: {SEED}\n")
    assert fault.startswith("section [amqp], option url: expected amqp://")


def test_the_address_alone_is_read_without_a_look_at_the_other_sections(tmp_path):
    path = tmp_path / "config.ini"
    path.write_text(f"[amqp]\nhost: a\nuser: me\npasswd: {SECRET}\n[digest]\nworkers: many\nretries: -1\n")
    assert load_amqp(str(path)) == AmqpSettings((("a", 5672),), "me", SECRET)
    path.write_text("[digest]\nworkers: 1\n")
    assert load_amqp(str(path)) is None
    assert load_amqp(None) is None


def test_faults_of_the_address_alone_are_told_as_with_the_others(read, tmp_path):
    path = tmp_path / "config.ini"
    text = "[amqp]\nhost: a\nheartbeat: often\nhots: b\n"
    path.write_text(text)
    with pytest.raises(ConfigError) as alone:
        load_amqp(str(path))
    with pytest.raises(ConfigError) as together:
        load(str(path), (), as_root=False)
    assert str(alone.value) == str(together.value)
    assert "option heartbeat: expected a number from 0 to 65535, found 'often'" in str(alone.value)
