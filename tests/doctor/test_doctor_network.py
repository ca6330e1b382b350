"""What reaches out, and what could."""

from __future__ import annotations

from pathlib import Path

from doctor_jobs import Answers, connect, subject

from proguard_edge.doctor import network
from proguard_edge.doctor.finding import Finding

HEAD = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
OUT = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
NEAR = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
OUT_6 = f"{'0' * 32} 00 {'0' * 32} 00 fd{'0' * 30} 00000400 00000003 00000000 00000003     wlan0\n"
NOWHERE_6 = f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} ffffffff 00000001 00000000 00200200       lo\n"


def machine(root: Path, routes: str = "", routes_6: str = "", addresses_6: str = "") -> Path:
    folder = root / "proc/net"
    folder.mkdir(parents=True)
    (folder / "dev").write_text("Inter-| Receive\n face |bytes\n    lo: 1\n  eth0: 1\n wlan0: 1\n")
    (folder / "route").write_text(HEAD + routes)
    (folder / "ipv6_route").write_text(routes_6)
    (folder / "if_inet6").write_text(f"{'0' * 31}1 01 80 10 80       lo\n{addresses_6}")
    return root


def routes_of(root: Path, expect_offline: bool = False) -> Finding:
    found = network.interfaces(root), network.default_routes(root)
    return network.routes(*found, expect_offline)


def test_telemetry_of_onnxruntime_is_a_problem_and_that_of_others_a_note(tmp_path):
    assert network.telemetry([], None).state == "ok"
    folder = tmp_path / network.STORE
    assert network.left({"XDG_CACHE_HOME": str(tmp_path)}) is None
    folder.mkdir(parents=True)
    assert network.left({"XDG_CACHE_HOME": str(tmp_path)}) == folder
    assert network.telemetry([], folder).state == "note"
    found = network.telemetry([str(folder / "onnxruntime.db")], folder)
    assert (found.state, "ORT_DISABLE_TELEMETRY=1" in found.remedy) == ("problem", True)


def test_a_socket_that_was_used_is_a_problem():
    looked_at = subject(Path(), Answers({("collecting", None): []}))
    connect(9)
    first, *_ = network.check(looked_at)
    assert first.state == "problem"
    assert "socket.connect ('127.0.0.1', 9)" in first.found


def test_no_socket_is_ok_unless_a_process_died_and_cannot_be_asked():
    assert network.silent([], 0).state == "ok"
    assert network.silent([], 1).state == "warning"


def test_only_loopback_is_ok(tmp_path):
    found = routes_of(machine(tmp_path, routes_6=NOWHERE_6), expect_offline=True)
    assert (found.state, found.details["default_routes"]) == ("ok", [])


def test_a_way_out_is_a_note_and_a_warning_where_none_should_be(tmp_path):
    root = machine(tmp_path, NEAR + OUT, OUT_6 + NOWHERE_6)
    assert routes_of(root).state == "note"
    found = routes_of(root, expect_offline=True)
    assert (found.state, found.found[-11:]) == ("warning", "eth0, wlan0")


def test_an_interface_in_use_is_a_warning_where_none_should_be(tmp_path):
    root = machine(tmp_path, NEAR, addresses_6=f"fe80{'0' * 27}1 02 40 20 80    wlan0\n")
    assert routes_of(root).state == "note"
    found = routes_of(root, expect_offline=True)
    assert (found.state, found.found[-19:]) == ("warning", "in use: eth0, wlan0")


def test_a_system_that_tells_no_routes_is_never_ok(tmp_path):
    assert routes_of(tmp_path).state == "note"


def test_a_proxy_is_a_note_that_does_not_show_its_password():
    assert network.environment({"HTTP_PROXY": "", "PATH": "/bin"}).state == "ok"
    found = network.environment({"https_proxy": "http://me:secret@proxy:3128"})
    assert (found.state, found.found) == ("note", "https_proxy set")
    assert "secret" not in str(found)
