#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Compiles profiles with the system's libseccomp, for the comparison in compare.rs.

One profile as JSON per line on stdin: {"default": u32, "native": name, "architectures": [name], "optimize": 1|2,
"rules": [{"names": [str], "action": u32, "args": [[index, operator, value, value_two]]}]}.
One line per profile on stdout: microseconds, a space, and the program in hexadecimal (little-endian); or "error: why".
The front end does what runc's does: unknown names and rules that repeat the default action are skipped, and
conditions of a rule that names one argument twice become rules of their own.
`--numbers NAME...` prints instead the number of each name on each architecture as JSON.
LIBSECCOMP names another library file. Needs only python3 and libseccomp.so.2.
"""
import ctypes
import json
import os
import struct
import sys
import time

lib = ctypes.CDLL(os.environ.get("LIBSECCOMP", "libseccomp.so.2"), use_errno=True)


class ArgCmp(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


lib.seccomp_init.restype = ctypes.c_void_p
lib.seccomp_init.argtypes = [ctypes.c_uint32]
lib.seccomp_release.argtypes = [ctypes.c_void_p]
lib.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
lib.seccomp_arch_resolve_name.argtypes = [ctypes.c_char_p]
lib.seccomp_arch_resolve_name.restype = ctypes.c_uint32
lib.seccomp_arch_native.restype = ctypes.c_uint32
lib.seccomp_arch_remove.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
lib.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
lib.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
lib.seccomp_syscall_resolve_name_arch.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
lib.seccomp_rule_add_array.argtypes = [
    ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(ArgCmp)]
lib.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]

OPERATORS = {"NE": 1, "LT": 2, "LE": 3, "EQ": 4, "GE": 5, "GT": 6, "MASKED_EQ": 7}
CTL_OPTIMIZE = 8
NR_SCMP_ERROR = -1
LITTLE = 0x40000000  # __AUDIT_ARCH_LE


def check(code, what):
    if code < 0 and code != -17:  # EEXIST of arch_add: the native architecture is there already
        raise OSError(-code, f"{what}: {os.strerror(-code)}")


def architecture(name):
    return lib.seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode())


def add(context, action, number, args):
    array = (ArgCmp * max(len(args), 1))()
    for slot, (index, operator, value, value_two) in zip(array, args):
        slot.arg, slot.op, slot.a, slot.b = index, OPERATORS[operator], value, value_two
    code = lib.seccomp_rule_add_array(context, action, number, len(args), array)
    if code < 0:
        raise OSError(-code, f"rule_add: {os.strerror(-code)}")


def compile_profile(profile, out):
    context = lib.seccomp_init(profile["default"])
    if not context:
        raise OSError(22, "init: the default action is refused")
    try:
        native = architecture(profile["native"])
        if native != lib.seccomp_arch_native():
            # A filter cannot hold both byte orders, so this machine's own goes first.
            check(lib.seccomp_arch_remove(context, lib.seccomp_arch_native()), "arch_remove")
        for name in [profile["native"], *profile["architectures"]]:
            token = architecture(name)
            if token == 0:
                raise OSError(22, f"no architecture {name}")
            check(lib.seccomp_arch_add(context, token), "arch_add")
        if profile.get("optimize", 1) != 1:
            check(lib.seccomp_attr_set(context, CTL_OPTIMIZE, profile["optimize"]), "optimize")
        for rule in profile["rules"]:
            if rule["action"] == profile["default"]:
                continue
            indices = [arg[0] for arg in rule["args"]]
            apart = len(set(indices)) != len(indices)
            for name in rule["names"]:
                number = lib.seccomp_syscall_resolve_name(name.encode())
                if number == NR_SCMP_ERROR:
                    continue
                for args in [[arg] for arg in rule["args"]] if apart else [rule["args"]]:
                    add(context, rule["action"], number, args)
        out.seek(0)
        out.truncate()
        check(lib.seccomp_export_bpf(context, out.fileno()), "export")
        out.seek(0)
        order = "<" if native & LITTLE else ">"
        return b"".join(struct.pack("<HBBI", *fields) for fields in struct.iter_unpack(order + "HBBI", out.read()))
    finally:
        lib.seccomp_release(context)


def main():
    if sys.argv[1:2] == ["--numbers"]:
        architectures = sys.argv[2].split(",")
        print(json.dumps({name: {arch: lib.seccomp_syscall_resolve_name_arch(architecture(arch), name.encode())
                                 for arch in architectures} for name in sys.stdin.read().split()}))
        return
    out = os.fdopen(os.memfd_create("program"), "w+b", buffering=0)
    for line in sys.stdin:
        start = time.monotonic()
        try:
            program = compile_profile(json.loads(line), out)
            print(int((time.monotonic() - start) * 1e6), program.hex(), flush=True)
        except OSError as error:
            print(f"error: {error.args[-1]}", flush=True)


if __name__ == "__main__":
    main()
