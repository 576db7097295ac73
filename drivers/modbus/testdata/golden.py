#!/usr/bin/env python3
"""Writes the cases of golden/: what a device holds, and what a reading of it must say.

An implementation of its own, on Python's struct, fractions and decimal text: it shares no line and no rule with the
driver but the register map in docs/modbus.md. Run it in this folder; it overwrites golden/. The seed is fixed.
"""
import json
import pathlib
import random
import struct
from fractions import Fraction

HERE = pathlib.Path(__file__).parent / "golden"
ORDERS = ["ABCD", "BADC", "CDAB", "DCBA"]
SIZES = {"int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8,
         "bcd16": 2, "bcd32": 4, "float16": 2, "float32": 4, "float64": 8}
CODES = {"int8": ">b", "uint8": ">B", "int16": ">h", "uint16": ">H", "int32": ">i", "uint32": ">I", "int64": ">q",
         "uint64": ">Q", "float16": ">e", "float32": ">f", "float64": ">d"}


def wire(big_endian, order):
    """The registers of a value, first one first, each high byte first."""
    regs = [big_endian[i:i + 2] for i in range(0, len(big_endian), 2)]
    if order in ("CDAB", "DCBA"):
        regs.reverse()
    if order in ("BADC", "DCBA"):
        regs = [r[::-1] for r in regs]
    return b"".join(regs)


def text_wire(data, order):
    """The registers of a text: they never change places."""
    regs = [data[i:i + 2] for i in range(0, len(data), 2)]
    if order in ("BADC", "DCBA"):
        regs = [r[::-1] for r in regs]
    return b"".join(regs)


def shortest(f, code):
    """The shortest decimal that means this float; a float16 is written as the float32 that it is."""
    if code == ">d":
        return repr(f)
    for digits in range(1, 18):
        text = f"{f:.{digits - 1}e}"
        try:
            if struct.pack(">f", float(text)) == struct.pack(">f", f):
                return text
        except OverflowError:  # rounded up to more than the largest one
            pass
    raise ValueError(f)


def decimal(x):
    """An exact decimal text of a fraction that has one."""
    digits, shifted = 0, x
    while shifted.denominator != 1:
        shifted, digits = shifted * 10, digits + 1
    text = str(abs(shifted.numerator)).rjust(digits + 1, "0")
    whole, rest = (text[:-digits], text[-digits:]) if digits else (text, "")
    return ("-" if x < 0 else "") + whole + ("." + rest if rest else "")


class Case:
    def __init__(self, order, base):
        self.order, self.base = order, base
        self.tags, self.values, self.bad = {}, {}, {}
        self.memory = {"holding": {}, "input": {}}
        self.next = {"holding": 0, "input": 40000}
        self.bits = {"coil": {}, "discrete": {}}

    def place(self, table, data, gap):
        at = self.next[table]
        for i in range(0, len(data), 2):
            self.memory[table][at + i // 2] = data[i:i + 2]
        self.next[table] = at + len(data) // 2 + gap
        return at

    def add(self, name, data, kind, want, gap=0, **keys):
        """want: JSON text of the value, or a bad reason in a list."""
        table = "holding" if len(self.tags) % 3 else "input"
        at = self.place(table, data, gap)
        for i in range(gap):  # so that gaps can be read over
            self.memory[table][self.next[table] - 1 - i] = b"\xde\xad"
        self.tags[name] = {"read": table, "at": at + self.base, **({"type": kind} if kind else {}), **keys}
        if isinstance(want, list):
            self.bad[name] = want[0]
        else:
            self.values[name] = want

    def bit(self, name, table, at, on, want=None, **keys):
        self.bits[table][at] = on
        self.tags[name] = {"read": table, "at": at + self.base, **keys}
        self.values[name] = want or ("true" if on else "false")


def pack(kind, v):
    data = struct.pack(CODES[kind], v)
    return b"\x00" + data if len(data) == 1 else data


def numbers(c, r):
    for kind in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"):
        bits = 8 * SIZES[kind]
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if kind[0] == "i" else (0, (1 << bits) - 1)
        for i, v in enumerate([low, high, 1, r.randint(low, high)]):
            c.add(f"{kind} {i}", wire(pack(kind, v), c.order), kind, str(v), gap=r.randint(0, 3))
        for i, (scale, offset) in enumerate([("0.1", "0"), ("0.001", "-40"), ("-2.5", "0.25"), ("1000", "7")]):
            v = r.randint(low, high)
            want = decimal(Fraction(v) * Fraction(scale) + Fraction(offset))
            c.add(f"{kind} scaled {i}", wire(pack(kind, v), c.order), kind, want, scale=float(scale), offset=float(offset))
    # The other byte of a register with an 8-bit value is somebody else's.
    c.add("int8 beside", wire(b"\x7f\x85", c.order), "int8", "-123")


def bcd(c, r):
    for kind in ("bcd16", "bcd32"):
        digits = 2 * SIZES[kind]
        for i in range(3):
            v = [0, 10 ** digits - 1, r.randrange(10 ** digits)][i]
            c.add(f"{kind} {i}", wire(bytes.fromhex(str(v).rjust(digits, "0")), c.order), kind, str(v))
        wrong = "9" * (digits - 2) + "a0"
        c.add(f"{kind} wrong", wire(bytes.fromhex(wrong), c.order), kind, ["not-a-number"])
        c.add(f"{kind} scaled", wire(bytes.fromhex("1" * digits), c.order), kind, decimal(Fraction("1" * digits) / 100), scale=0.01)


def floats(c, r):
    for kind in ("float16", "float32", "float64"):
        code = CODES[kind]
        largest = {"float16": 65504.0, "float32": 3.4028234663852886e38, "float64": 1.7976931348623157e308}[kind]
        for i, v in enumerate([0.0, -0.0, 1.5, 0.1, 12.3, -1 / 3, largest, -largest, r.uniform(-1000, 1000), r.uniform(-1, 1) * 1e-4]):
            v = struct.unpack(code, struct.pack(code, v))[0]
            c.add(f"{kind} {i}", wire(struct.pack(code, v), c.order), kind, shortest(v, code), gap=r.randint(0, 2))
        for i, (v, scale, offset) in enumerate([(3.0, "0.1", "0"), (12.3, "1.8", "32"), (r.uniform(-50, 50), "0.001", "-40"), (0.7, "-100", "0.3")]):
            v = struct.unpack(code, struct.pack(code, v))[0]
            want = repr(float(Fraction(shortest(v, code)) * Fraction(scale) + Fraction(offset)))
            c.add(f"{kind} scaled {i}", wire(struct.pack(code, v), c.order), kind, want, scale=float(scale), offset=float(offset))
        for name, v in (("nan", float("nan")), ("inf", float("inf")), ("minus inf", float("-inf"))):
            c.add(f"{kind} {name}", wire(struct.pack(code, v), c.order), kind, ["not-a-number"])


def texts(c):
    c.add("text", text_wire(b"Meter 1\x00", c.order), "string", '"Meter 1"', length=4)
    c.add("padded", text_wire("°C  ".encode() + b"   ", c.order), "string", '"°C"', length=4)
    c.add("latin", text_wire(b"\xb0C", c.order), "string", ["not-text"], length=1)
    c.add("empty", text_wire(bytes(6), c.order), "string", '""', length=3)
    c.add("raw", text_wire(bytes.fromhex("00ff10ab"), c.order), "bytes", '"00ff10ab"', length=2)


def parts(c, r):
    for kind in ("uint16", "uint32", "uint64", "int32"):
        size = SIZES[kind]
        v = r.getrandbits(8 * size)
        data = wire(v.to_bytes(size, "big"), c.order)
        for bit in (0, 7, 8 * size - 1):
            c.add(f"bit {bit} of {kind}", data, kind, "true" if v >> bit & 1 else "false", bit=bit)
        for low, high in ((0, 3), (4, 11), (8 * size - 6, 8 * size - 1), (0, 8 * size - 1)):
            n = v >> low & (1 << high - low + 1) - 1
            if kind[0] == "i" and n >> high - low:
                n -= 1 << high - low + 1
            c.add(f"bits {low}-{high} of {kind}", data, kind, str(n), bits=f"{low}-{high}")
    c.add("bit alone", wire(b"\x00\x08", c.order), "", "true", bit=3)
    c.add("bits alone", wire(b"\x5a\x5a", c.order), "", decimal(Fraction(10) / 10 - 3), bits="8-11", scale=0.1, offset=-3.0)
    c.add("word", wire(b"\x00\x01", c.order), "uint16", '"run"', map={0: "off", 1: "run"})
    c.add("word below 0", wire(b"\xff\xff", c.order), "int16", '"fault"', map={-1: "fault", 1: "run"})
    c.add("no word", wire(b"\xff\xfe", c.order), "int16", ["unmapped--2"], map={-1: "fault", 1: "run"})
    c.add("word of bits", wire(b"\x00\x30", c.order), "", '"manual"', bits="4-6", map={3: "manual"})
    c.add("no word of bits", wire(b"\x00\x40", c.order), "", ["unmapped-4"], bits="4-6", map={3: "manual"})
    c.add("word of BCD", wire(b"\x00\x12", c.order), "bcd16", '"twelve"', map={12: "twelve"})
    c.bit("coil", "coil", 9, True)
    c.bit("coil off", "coil", 10, False)
    c.bit("discrete", "discrete", 0, True)
    c.bit("discrete off", "discrete", 65534, False)
    c.bit("door", "coil", 30, True, '"open"', map={0: "closed", 1: "open"})


def write(c):
    folder = HERE / f"{c.order.lower()}-base{c.base}"
    folder.mkdir(parents=True, exist_ok=True)
    tags = "".join(f"            {json.dumps(n)}: {json.dumps(t, ensure_ascii=False)}\n" for n, t in c.tags.items())
    (folder / "config.yaml").write_text(
        f"sources:\n  bus:\n    modbus:\n      profiles:\n        all:\n          byte_order: {c.order}\n          base: {c.base}\n"
        f"          tags:\n{tags}      devices:\n        d: {{ unit: 1, every: 1h, profile: all }}\n")
    image = {table: {str(at): data.hex() for at, data in sorted(cells.items())} for table, cells in c.memory.items()}
    image |= {table: {str(at): str(int(on)) for at, on in sorted(cells.items())} for table, cells in c.bits.items()}
    (folder / "device.json").write_text(json.dumps(image, indent=0) + "\n")
    lines = [f"{json.dumps(n)}: {v}" for n, v in c.values.items()]
    bad = [f"{json.dumps(n)}: {json.dumps(v)}" for n, v in c.bad.items()]
    (folder / "want.json").write_text('{"values": {\n' + ",\n".join(lines) + '\n}, "bad": {\n' + ",\n".join(bad) + "\n}}\n")


def main():
    r = random.Random(20260102)
    for order in ORDERS:
        for base in (0, 1):
            c = Case(order, base)
            numbers(c, r)
            bcd(c, r)
            floats(c, r)
            texts(c)
            parts(c, r)
            write(c)


main()
