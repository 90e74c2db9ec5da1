import pytest
from support.configs import SECRET

from taskqueue import config

NUMBER = "a number of 0 or more"
LISTED = f"{NUMBER}, a range such as 2..16, or a list of subgroups"
FILE = "the absolute path of a readable file"
FOREIGN = "a queue whose name begins with neither taskqueue nor worker_"
SECONDS = "a number of seconds, 0 or more"
HOST = "a host or host:port"
HEADER = "the name of an HTTP header, such as X-Remote-User"
HOSTS = "hosts or host:port, separated by commas"
DESTINATION = "stderr, syslog or the absolute path of a file"
TIME = "a time such as 90d, 12h, 30m, 15s or a number of seconds"
LANES = "a number from 4 to 64, or none"
WEIGHTS = "tenants with weights from 1 to 1000, such as acme 3, example 1"
LISTEN = "host:port, such as 127.0.0.1:8672; port 0 is a free one"
SIZE = "a size such as 10G, 500M or a number of bytes"
TYPES = "content types such as application/cbor, separated by commas"


@pytest.mark.parametrize(
    ("section", "line", "expected"),
    [
        ("worker1", "workers: -1", f"{LISTED}, found '-1'"),
        ("worker1", "workers: 2..", f"{LISTED}, found '2..'"),
        ("worker1", "workers: 0..2", "a number from 1 to 65535, found '0'"),
        ("worker1", "workers: 5..4", f"{LISTED}; the first number is the smaller one, found '5..4'"),
        ("worker1", "workers:", f"{LISTED}, found nothing"),
        ("worker1", "workers: a,,b", f"{LISTED}, found 'a,,b'"),
        ("worker1", "workers: a, a", f"{LISTED}, found 'a, a'"),
        ("worker1", "workers: 2 ; two", f"{LISTED}, found '2 ; two'"),
        ("worker1", "workers: 65536", "a number from 0 to 65535, found '65536'"),
        ("worker1", "workers: \N{SUPERSCRIPT TWO}", "a number from 0 to 65535, found '\N{SUPERSCRIPT TWO}'"),
        ("DEFAULT", "workers: a, b", f"{NUMBER}, found 'a, b'"),
        ("worker1", "user:", "a text of one line, found nothing"),
        ("worker1", f"results_routing_key: {'é' * 128}", f"a text of at most 255 bytes, found '{'é' * 25}"),
        ("worker1", "results_routing_key: taskqueue", f"{FOREIGN}, found 'taskqueue'"),
        ("worker1", "results_routing_key: worker_worker1", f"{FOREIGN}, found 'worker_worker1'"),
        ("worker1", "report_results: maybe", "yes or no, found 'maybe'"),
        ("worker1", "results_expire: 1 week", "a number of seconds from 0 to 4294967, found '1 week'"),
        ("worker1", "results_expire: 4294968", "a number of seconds from 0 to 4294967, found '4294968'"),
        ("worker1", "max_prefetch: 0", "a number from 1 to 65535, found '0'"),
        ("worker1", "lanes: 0", f"{LANES}, found '0'"),
        ("worker1", "lanes: 100000", f"{LANES}, found '100000'"),
        ("worker1", f"lanes: {'9' * 5000}", f"{LANES}, found '9999"),
        ("worker1", "lanes: 1e1", f"{LANES}, found '1e1'"),
        ("worker1", "weights: acme 0", f"{WEIGHTS}, found 'acme 0'"),
        ("worker1", "weights: acme nan", f"{WEIGHTS}, found 'acme nan'"),
        ("worker1", "weights: acme -1", f"{WEIGHTS}, found 'acme -1'"),
        ("worker1", "weights: acme 1001", f"{WEIGHTS}, found 'acme 1001'"),
        ("worker1", "weights: acme", f"{WEIGHTS}, found 'acme'"),
        ("worker1", "weights: a 3 b 1", f"{WEIGHTS}; a comma after each weight, found 'a 3 b 1'"),
        ("worker1", "weights: acme 2, acme 3", f"{WEIGHTS}; each tenant once"),
        ("worker1", f"weights: {'a' * 101} 2", f"{WEIGHTS}; each tenant once, with up to 100 characters"),
        ("worker1", "max_wait: never", "a number of seconds from 0 to 2592000, found 'never'"),
        ("worker1", "retries: 1001", "a number from 0 to 1000, found '1001'"),
        ("worker1", "retry_delay: 1h", "a number of seconds from 0 to 2592000, found '1h'"),
        ("worker1", "retry_backoff: 0.5", "a number of 1 or more, found '0.5'"),
        ("worker1", "retry_backoff: twice", "a number of 1 or more, found 'twice'"),
        ("worker1", "retry_jitter: 1.5", "a number from 0 to 1, found '1.5'"),
        ("worker1", "retry_jitter: -0.1", "a number from 0 to 1, found '-0.1'"),
        ("worker1", "timeout: never", "a number of seconds from 0 to 2592000, found 'never'"),
        ("worker1", "memory_limit: 1G", f"{NUMBER}, found '1G'"),
        ("worker1", "memory_max: 1 GiB", f"{SIZE}, from 0 to 1000000000000000, found '1 GiB'"),
        ("worker1", "cpu_max: 50%", "a number of processors, such as 0.5 or 2, found '50%'"),
        ("worker1", "cpu_weight: 10001", "a number from 0 to 10000, found '10001'"),
        ("worker1", "nice: 20", "a number from 0 to 19, found '20'"),
        ("worker1", "max_crashes: 0", "a number of 1 or more, found '0'"),
        ("worker1", "max_crashes: 1_0", "a number of 1 or more, found '1_0'"),
        ("worker1", f"output_rate: {'9' * 5000}", f"{NUMBER}, found '9999"),
        ("dispatcher", "instances: 0", "a number from 1 to 1000, found '0'"),
        ("dispatcher", "window: 65536", "a number from 1 to 65535, found '65536'"),
        ("dispatcher", "max_types: many", f"{NUMBER}, found 'many'"),
        ("dispatcher", "formats: text", f"{TYPES}, found 'text'"),
        ("dispatcher", "formats: a/b c/d", f"{TYPES}, found 'a/b c/d'"),
        ("dispatcher", "stop_timeout: -1", f"{SECONDS}, found '-1'"),
        ("workerpool", "stop_timeout: inf", f"{SECONDS}, found 'inf'"),
        ("workerpool", "stop_timeout: 1\n  2", f"{SECONDS}, found several lines"),
        ("monitor", "listen: 8672", f"{LISTEN}, found '8672'"),
        ("monitor", "listen: localhost:65536", f"{LISTEN}, found 'localhost:65536'"),
        ("monitor", "database: record", "the absolute path of a directory, found 'record'"),
        ("monitor", "keep_failed: 5s", f"{TIME}, 60 or more, found '5s'"),
        ("monitor", "keep_failed: 59", f"{TIME}, 60 or more, found '59'"),
        ("monitor", "keep_failed: 99999d", f"{TIME}, 60 or more, found '99999d'"),
        ("monitor", "keep_failed: 1.5h", f"{TIME}, 60 or more, found '1.5h'"),
        ("monitor", "max_size: 1T", f"{SIZE}, from 10000000 to 1000000000000000, found '1T'"),
        ("monitor", "max_size: 9M", f"{SIZE}, from 10000000 to 1000000000000000, found '9M'"),
        ("monitor", "stream_segment_size: 3G", f"{SIZE}, from 1000000 to 3000000000, found '3G'"),
        ("logging", "level: loud", "one of debug, info, warning, error, found 'loud'"),
        ("logging", "format: xml", "one of text, json, found 'xml'"),
        ("logging", "destination: log/file", f"{DESTINATION}, found 'log/file'"),
        ("logging", "destination: /var/log/", f"{DESTINATION}, found '/var/log/'"),
        ("amqp", "queue_type: stream", "one of default, classic, quorum, found 'stream'"),
        ("amqp", "host: a b", f"{HOST}, found 'a b'"),
        ("amqp", "host: a, b", f"{HOST}, found 'a, b'"),
        ("amqp", "host: a:0", f"{HOST}, found 'a:0'"),
        ("amqp", "hosts: a, b:70000", f"{HOSTS}, found 'a, b:70000'"),
        ("amqp", "hosts:", f"{HOSTS}, found nothing"),
        ("amqp", "port: 0", "a number from 1 to 65535, found '0'"),
        ("amqp", "heartbeat: 65536", "a number from 0 to 65535, found '65536'"),
        ("amqp", f"vhost: {'v' * 256}", "a text of at most 255 bytes, found 'vvv"),
        ("amqp", "password:", "a text of one line, found nothing"),
        ("amqp", f"heartbeat: password={SECRET}", "a number from 0 to 65535, found what may hold a secret"),
        ("amqp", "ssl: yes\nca_file: /a\tb", f"{FILE}, found what does not begin with / or holds unpr"),
        ("logging", "destination: /a\tb", f"{DESTINATION}, found '/a\\tb'"),
        ("worker1", "output_rate: 1000000000", f"{NUMBER}, found '1000000000'"),
        ("monitor", "cert_file: cert.pem", "the absolute path of a file, found 'cert.pem'"),
        ("monitor", "cert_file: /etc/", "the absolute path of a file, found '/etc/'"),
        ("monitor", "key_file: /etc/key.pem", "cert_file beside it, found none"),
        ("monitor", "proxy_socket: /run/s", "proxy_user_header beside it, found none"),
        ("monitor", "proxy_user_header: X-User", "proxy_socket beside it, found none"),
        ("monitor", "proxy_socket: /run/s\nproxy_user_header: Authorization", f"{HEADER}, found 'Author"),
        ("monitor", "proxy_socket: /run/s\nproxy_user_header: X_User", f"{HEADER}, found 'X_User'"),
        ("amqp", "ssl: maybe", "yes or no, found 'maybe'"),
        ("amqp", "ssl: yes\nca_file: ca.pem", f"{FILE}, found what does not begin with /"),
        ("amqp", "ssl: yes\ncert_file: /nonexistent/a", f"{FILE}, found '/nonexistent/a': No such"),
        ("amqp", "ssl: yes\nca_file: /dev/zero", f"{FILE}, found '/dev/zero', which is no file"),
        ("amqp", "ssl: yes\nca_file: /etc/secrets/password", f"{FILE}, found '/etc/secrets/password':"),
        ("amqp", f"passwd_file: {SECRET}", f"{FILE} whose first line is the password, found what does not"),
        ("amqp", "passwd_file: /nonexistent/a", f"{FILE} whose first line is the password, found '/nonex"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_a_fault(faults_of, section, line, expected):
    (fault,) = faults_of(f"[{section}]\n{line}\n")
    option = [name.partition(":")[0] for name in line.split("\n") if not name.startswith(" ")][-1]
    assert fault.startswith(f"section [{section}], option {option}: expected {expected}")
    assert len(fault) < 250


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("keep_failed: 90d", "keep_failed", 90 * 86400),
        ("keep_failed: 90", "keep_failed", 90),
        ("keep_failed: 2H", "keep_failed", 7200),
        ("max_size: 10G", "max_size", 10 * 1024**3),
        ("max_size: 500m", "max_size", 500 * 1024**2),
        ("max_size: 10000000", "max_size", 10_000_000),
        ("stream_segment_size: 1000K", "stream_segment_size", 1_024_000),
    ],
)
def test_a_time_and_a_size_have_units(write, line, name, value):
    settings = config.load(write(f"[monitor]\n{line}\n"), (), as_root=False)
    assert getattr(settings.monitor, name) == value
