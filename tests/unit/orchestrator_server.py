"""An orchestrator's API over real HTTPS in this process, with faults on demand, and certificates made on the fly."""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

CLUSTER = "edge.test"
PROJECT = "infra-proj"
USER, PASSWORD = "api-user", "s3cret-Pa55word"
NAMES = (f"api.{CLUSTER}", f"keycloak.{CLUSTER}")
TOKEN_PATH = "/realms/master/protocol/openid-connect/token"
UBUNTU, MICROVISOR = "os-11111111", "os-22222222"


class Authority:
    """A CA of our own."""

    def __init__(self, name: str = "Test CA", *, days: tuple[int, int] = (-1, 30)) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
            decipher_only=False,
        )  # fmt: skip
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        self._certificate = (
            self._begun(self._name, self._key, days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.DER)

    def _begun(self, subject: x509.Name, key: Any, days: tuple[int, int]) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=days[0]))
            .not_valid_after(now + timedelta(days=days[1]))
        )

    def issue(self, *names: str, days: tuple[int, int] = (-1, 30)) -> bytes:
        """Key and certificate for names, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        certificate = (
            self._begun(subject, key, days)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return private + certificate.public_bytes(serialization.Encoding.PEM)


# What a fault does with a request in place of answering; returns whether it did.
Fault = Callable[["Handler"], bool]


@dataclass
class State:
    """What the orchestrator knows, and what it was asked."""

    hosts: list[dict[str, Any]] = field(default_factory=list)
    providers: list[dict[str, Any]] = field(default_factory=list)
    # Whether two providers may have one name.
    names_repeat: bool = False
    tokens: set[str] = field(default_factory=set)
    refresh_tokens: set[str] = field(default_factory=set)
    lifetime: int = 300
    grants: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    faults: list[tuple[str, Fault]] = field(default_factory=list)
    largest_page: int = 100
    counter: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def number(self) -> int:
        self.counter += 1
        return self.counter

    def fault(self, pattern: str, what: Fault, *, times: int = 1) -> None:
        """The next requests that match (``METHOD /path``) meet it."""
        self.faults += [(pattern, what)] * times

    def add_host(self, serial_number: str, **more: Any) -> dict[str, Any]:
        host = {
            "resourceId": f"host-{self.number():08x}", "name": serial_number, "serialNumber": serial_number,
            "uuid": "", "hostStatus": "", "onboardingStatus": "", "registrationStatus": "Host is Registered", **more,
        }  # fmt: skip
        self.hosts.append(host)
        return host

    def add_provider(self, default_os: str, name: str = "infra_onboarding", **more: Any) -> dict[str, Any]:
        config = json.dumps({"defaultOs": default_os, "autoProvision": True, "osSecurityFeatureEnable": False})
        provider = {
            "providerID": f"provider-{self.number():08x}", "name": name, "providerKind": "PROVIDER_KIND_BAREMETAL",
            "apiEndpoint": "xyz", "apiCredentials": ["abc"], "config": config, **more,
        }  # fmt: skip
        self.providers.append(provider)
        return provider


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *words: object) -> None:
        pass

    def answer(self, status: int, document: Any = None, *, headers: dict[str, str] | None = None) -> None:
        body = (
            document if isinstance(document, bytes) else json.dumps(document).encode() if document is not None else b""
        )
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _handle(self) -> None:
        state = self.server.state
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        self.path_only = urlsplit(self.path).path
        asked = f"{self.command} {self.path_only}"
        with state.lock:
            state.asked.append(asked)
            fault = next((one for one in state.faults if re.search(one[0], asked)), None)
            if fault:
                state.faults.remove(fault)
        if fault and fault[1](self):
            return
        with state.lock:
            self._route(state)

    do_GET = do_POST = do_DELETE = _handle

    def _route(self, state: State) -> None:
        host = self.headers["Host"].split(":")[0]
        if self.command == "POST" and self.path_only == TOKEN_PATH:
            if host != NAMES[1]:
                return self.answer(421, {"message": f"not here: {host}"})
            return self._token(state)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in state.tokens:
            return self.answer(401, {"message": f"token {token} is not valid"})
        found = re.fullmatch(r"/v1/projects/([^/]+)(?:/(.*))?", self.path_only)
        if host != NAMES[0] or not found or found[1] != PROJECT:
            return self.answer(404, {"message": "not found"})
        return self._project(state, found[2] or "")

    def _token(self, state: State) -> None:
        form = {key: values[0] for key, values in parse_qs(self.body.decode()).items()}
        state.grants.append(form.get("grant_type", ""))
        if form.get("client_id") != "system-client":
            return self.answer(400, {"error": "invalid_client"})
        known = form.get("refresh_token") in state.refresh_tokens
        if not known and (form.get("username"), form.get("password")) != (USER, PASSWORD):
            words = f"Invalid user credentials: {form.get('password')}"
            return self.answer(401, {"error": "invalid_grant", "error_description": words})
        number = state.number()
        state.tokens.add(f"token-{number}")
        state.refresh_tokens.add(f"refresh-{number}")
        return self.answer(
            200,
            {"access_token": f"token-{number}", "refresh_token": f"refresh-{number}", "expires_in": state.lifetime},
        )

    def _project(self, state: State, path: str) -> None:
        resources = {
            "compute/hosts": ("hosts", state.hosts, "resourceId"),
            "compute/instances": (
                "instances",
                [host["instance"] for host in state.hosts if host.get("instance")],
                "instanceID",
            ),
            "compute/os": ("OperatingSystemResources", OS_PROFILES, "osResourceID"),
            "providers": ("providers", state.providers, "providerID"),
        }
        if self.command == "GET" and not path:
            return self.answer(200, {"spec": {"description": "a project"}})
        if self.command == "POST" and path == "compute/hosts/register":
            return self._register(state)
        if self.command == "POST" and path == "providers":
            return self._make_provider(state)
        collection, _, name = path.rpartition("/") if self.command == "DELETE" else (path, "", "")
        if collection not in resources:
            return self.answer(404, {"message": "no such path"})
        key, items, id_key = resources[collection]
        if self.command == "DELETE":
            return self._remove(state, items, id_key, name)
        query = parse_qs(urlsplit(self.path).query)
        start = int(query.get("offset", ["0"])[0])
        size = min(int(query.get("pageSize", ["20"])[0]), state.largest_page)
        page = items[start : start + size]
        return self.answer(200, {key: page, "totalElements": len(items), "hasNext": start + len(page) < len(items)})

    def _register(self, state: State) -> None:
        wanted = json.loads(self.body)
        if any(host["serialNumber"] == wanted["serialNumber"] for host in state.hosts):
            return self.answer(409, {"message": "Host with this serial number already exists"})
        return self.answer(201, state.add_host(wanted["serialNumber"], name=wanted["name"]))

    def _make_provider(self, state: State) -> None:
        wanted = json.loads(self.body)
        if not state.names_repeat and any(one["name"] == wanted["name"] for one in state.providers):
            return self.answer(409, {"message": "provider already exists"})
        made = {"providerID": f"provider-{state.number():08x}", **wanted}
        state.providers.append(made)
        return self.answer(201, made)

    def _remove(self, state: State, items: list[dict[str, Any]], id_key: str, name: str) -> None:
        found = next((item for item in items if item[id_key] == name), None)
        if found is None:
            return self.answer(404, {"message": "not found"})
        for host in state.hosts:
            if host.get("instance") is found:
                host["instance"] = None
        for collection in (state.hosts, state.providers):
            if found in collection:
                collection.remove(found)
        return self.answer(204)


OS_PROFILES = [
    {"profileName": "ubuntu-22.04-lts-generic-ext", "osResourceID": UBUNTU, "name": "Ubuntu 22.04.5 LTS"},
    {"profileName": "microvisor-nonrt", "osResourceID": MICROVISOR, "name": "Edge Microvisor Toolkit 3.0"},
]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    state: State

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away in the middle are part of the tests."""


@contextmanager
def served(certificate: bytes, directory: Path) -> Iterator[tuple[State, int]]:
    """The API on a port of the loopback."""
    file = directory / "server.pem"
    file.write_bytes(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    server = Server(("127.0.0.1", 0), Handler)
    server.state = State()
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.state, server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# faults


def status(code: int, document: Any = None, **headers: str) -> Fault:
    """Answer with a status."""
    return lambda handler: handler.answer(code, document, headers=headers) is None


def text(body: bytes, code: int = 200) -> Fault:
    """Answer with bytes, whatever they are."""
    return lambda handler: handler.answer(code, body) is None


def drop(handler: Handler) -> bool:
    """Close the connection in place of answering."""
    handler.close_connection = True
    return True


def silent(released: threading.Event) -> Fault:
    """Say nothing until released."""

    def wait(_handler: Handler) -> bool:
        released.wait(30)
        return False

    return wait


def huge(handler: Handler) -> bool:
    """Answer without end."""
    handler.send_response(200)
    handler.end_headers()
    handler.close_connection = True
    for _ in range(1000):
        handler.wfile.write(b" " * 65536)
    return True


def done_but_lost(code: int) -> Fault:
    """Do what is asked, and answer that a gateway failed."""

    def act(handler: Handler) -> bool:
        said = handler.answer

        def instead(*_words: Any, **_more: Any) -> None:
            del handler.answer
            said(code, {"message": "bad gateway"})

        handler.answer = instead  # type: ignore[method-assign]
        return False

    return act
