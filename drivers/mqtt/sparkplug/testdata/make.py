#!/usr/bin/env python3
"""Writes datatypes.json, session.json and rebirth.json: payloads made by other
encoders, and what they mean. README.md says how to run it."""
import base64
import json
import struct
import sys

import pysparkplug as ps
import tahu.sparkplug_b_pb2 as pb

T = 1486144502122  # 2017-02-03T17:55:02.122Z
STAMP = "2017-02-03T17:55:02.122Z"
TYPES = ("Unknown Int8 Int16 Int32 Int64 UInt8 UInt16 UInt32 UInt64 Float Double Boolean String DateTime Text UUID DataSet Bytes File "
         "Template PropertySet PropertySetList Int8Array Int16Array Int32Array Int64Array UInt8Array UInt16Array UInt32Array "
         "UInt64Array FloatArray DoubleArray BooleanArray StringArray DateTimeArray").split()
NUMBER = {name: n for n, name in enumerate(TYPES)}
INF, NAN = float("inf"), float("nan")


def metric(container, name, typ=None, alias=None, time=T, **value):
    """Adds a metric; value is one of the oneof's fields, or flags."""
    m = container.metrics.add()
    if name is not None:
        m.name = name
    if alias is not None:
        m.alias = alias
    if time is not None:
        m.timestamp = time
    if typ is not None:
        m.datatype = NUMBER[typ]
    for key, v in value.items():
        setattr(m, key, v)
    return m


def twos(v, bits):
    """The two's complement as the client libraries make it."""
    return v % (1 << bits)


def f32(v):
    """v as a float of 32 bits tells it: the shortest digits that mean the same."""
    want = struct.unpack("<f", struct.pack("<f", v))[0]
    for digits in range(1, 10):
        short = float(f"%.{digits}g" % want)
        if abs(short) <= 3.4028235677973362e38 and struct.unpack("<f", struct.pack("<f", short))[0] == want:
            return short
    return want


def bits(values):
    """Booleans from the most significant bit on, as the specification has it."""
    out = bytearray((len(values) + 7) // 8)
    for i, v in enumerate(values):
        out[i // 8] |= v << (7 - i % 8)
    return struct.pack("<I", len(values)) + bytes(out)


def datatypes():
    cases = []

    def case(typ, want, quality=None, note=None, fill=None, **value):
        p = pb.Payload(timestamp=T, seq=0)
        m = metric(p, "m", typ, **value)
        if fill:
            fill(m)
        c = {"type": typ, "hex": p.SerializeToString().hex(), "want": want}
        if quality:
            c["quality"] = quality
        if note:
            c["note"] = note
        cases.append(c)

    for n in (8, 16, 32):
        for v in (0, 1, -1, 2 ** (n - 1) - 1, -(2 ** (n - 1))):
            case(f"Int{n}", v, int_value=twos(v, n))
        case(f"Int{n}", -2, int_value=twos(-2, 32), note="as Java's library writes it")
        case(f"Int{n}", -2, long_value=twos(-2, 64), note="in the wide field")
        for v in (0, 1, 2 ** n - 1):
            case(f"UInt{n}", v, int_value=v)
    case("UInt32", 4294967295, long_value=4294967295, note="as Java's library writes it")
    case("Int8", 300, "bad", int_value=300, note="does not fit")
    case("Int16", 70000, "bad", int_value=70000, note="does not fit")
    case("UInt8", 256, "bad", int_value=256, note="does not fit")
    case("UInt32", 4294967296, "bad", long_value=4294967296, note="does not fit")
    for v in (0, -1, 2 ** 63 - 1, -(2 ** 63), 9007199254740993):
        case("Int64", v, long_value=twos(v, 64))
    for v in (0, 2 ** 64 - 1, 9007199254740993):
        case("UInt64", v, long_value=v)
    for v in (0.0, 1.5, -0.1, 3.4028234663852886e38, 1e-45, 1e21, 1e-7):
        case("Float", f32(v), float_value=v)
    for v in (0.0, 0.1, -1e300, 5e-324, 1e21, 123456789.125):
        case("Double", v, double_value=v)
    for v in (NAN, INF, -INF):
        case("Float", None, "bad", float_value=v)
        case("Double", None, "bad", double_value=v)
    case("Double", f32(0.1), float_value=0.1, note="in the narrow field")
    case("Boolean", True, boolean_value=True)
    case("Boolean", False, boolean_value=False)
    case("String", "", string_value="")
    case("String", 'Grüße "\\\n\u2028\U0001F600', string_value='Grüße "\\\n\u2028\U0001F600')
    case("Text", "<a & b>", string_value="<a & b>")
    case("UUID", "123e4567-e89b-12d3-a456-426614174000", string_value="123e4567-e89b-12d3-a456-426614174000")
    case("DateTime", T, long_value=T)
    case("DateTime", -1, long_value=twos(-1, 64), note="before 1970")
    case("Bytes", base64.b64encode(bytes(range(256))).decode(), bytes_value=bytes(range(256)))
    case("File", base64.b64encode(b"{}").decode(), bytes_value=b"{}", fill=lambda m: setattr(m.metadata, "file_name", "a.json"))
    for typ in TYPES[1:]:
        if typ not in ("PropertySet", "PropertySetList"):
            case(typ, None, is_null=True)
    case("Boolean", 1, "bad", int_value=1, note="of another type")
    case("Int32", "7", "bad", string_value="7", note="of another type")
    case("String", 1.5, "bad", double_value=1.5, note="of another type")
    case("Float", 3, "bad", int_value=3, note="of another type")
    case("Unknown", 5, "untyped", int_value=5)
    case("Unknown", 2.5, double_value=2.5)
    case("Unknown", "AQI=", "untyped", bytes_value=b"\1\2")
    arrays(case)
    compound(case)
    return cases


def arrays(case):
    for typ, form, values in (
        ("Int8Array", "b", [-23, 123]), ("Int16Array", "h", [-30000, 30000]), ("Int32Array", "i", [-1, 315338746]),
        ("Int64Array", "q", [-4270929666821191986, -3601064768563266876]), ("UInt8Array", "B", [23, 250]), ("UInt16Array", "H", [30, 52360]),
        ("UInt32Array", "I", [52, 3293969225]), ("UInt64Array", "Q", [52, 16444743074749521625]), ("DoubleArray", "d", [12.354213, 1022.9123213]),
        ("DateTimeArray", "q", [1256102875335, 1656107875000]),
    ):
        packed = struct.pack(f"<{len(values)}{form}", *values)
        case(typ, values, bytes_value=packed)
        case(typ, [], bytes_value=b"", note="empty")
        if len(packed) > 2:
            case(typ, base64.b64encode(packed[:-1]).decode(), "bad", bytes_value=packed[:-1], note="cut off")
    case("FloatArray", [f32(1.23), f32(89.341)], bytes_value=struct.pack("<2f", 1.23, 89.341))
    case("FloatArray", [None, 1.5], "bad", bytes_value=struct.pack("<2f", NAN, 1.5))
    case("Int32Array", [123456789, 987654321], bytes_value=bytes.fromhex("15CD5B07B168DE3A"), note="bytes of the specification")
    flags = [False, False, True, True, False, True, False, False, True, True, False, True]
    case("BooleanArray", flags, bytes_value=bits(flags))
    case("BooleanArray", flags, bytes_value=bytes.fromhex("0C00000034DF"), note="bytes of the specification")
    case("BooleanArray", [], bytes_value=bits([]))
    case("BooleanArray", base64.b64encode(bytes.fromhex("FF00000034")).decode(), "bad", bytes_value=bytes.fromhex("FF00000034"), note="too few bits")
    case("BooleanArray", "AQ==", "bad", bytes_value=b"\1", note="no count")
    case("StringArray", ["ABC", "hello"], bytes_value=bytes.fromhex("4142430068656c6c6f00"), note="bytes of the specification")
    case("StringArray", ["", "ü"], bytes_value=b"\0" + "ü\0".encode())
    case("StringArray", "QUI=", "bad", bytes_value=b"AB", note="no end")
    case("StringArray", base64.b64encode(b"\xff\0").decode(), "bad", bytes_value=b"\xff\0", note="not UTF-8")


def compound(case):
    def table(m):
        d = m.dataset_value
        d.num_of_columns = 3
        d.columns.extend(["n", "name", "x"])
        d.types.extend([NUMBER["Int16"], NUMBER["String"], NUMBER["Double"]])
        for n, name, x in ((-5, "a", 0.5), (6, "b", None)):
            row = d.rows.add()
            row.elements.add().int_value = twos(n, 16)
            row.elements.add().string_value = name
            cell = row.elements.add()
            if x is not None:
                cell.double_value = x

    case("DataSet", {"columns": ["n", "name", "x"], "types": ["Int16", "String", "Double"], "rows": [[-5, "a", 0.5], [6, "b", None]]}, fill=table)
    case("DataSet", {"columns": [], "types": [], "rows": []}, fill=lambda m: m.dataset_value.SetInParent())

    def motor(m):
        t = m.template_value
        t.template_ref, t.version, t.is_definition = "Motor", "1.2", False
        for name, typ, field, v in (("poles", "Int8", "int_value", twos(-4, 8)), ("maker", "String", "string_value", "ACME")):
            p = t.parameters.add()
            p.name, p.type = name, NUMBER[typ]
            setattr(p, field, v)
        metric(t, "rpm", "Int32", int_value=twos(-1500, 32))
        metric(t, "temp", "Float", time=T + 1, float_value=NAN)
        inner = metric(t, "drive", "Template").template_value
        inner.template_ref, inner.is_definition = "Drive", False
        metric(inner, "on", "Boolean", boolean_value=True)

    case("Template", {"ref": "Motor", "version": "1.2", "parameters": {"poles": -4, "maker": "ACME"},
                      "values": {"rpm": -1500, "temp": None, "drive": {"ref": "Drive", "values": {"on": True}}},
                      "quality": {"temp": "bad"}, "times": {"temp": "2017-02-03T17:55:02.123Z"}}, fill=motor)
    case("Template", {"definition": True, "values": {}}, fill=lambda m: setattr(m.template_value, "is_definition", True))


SESSION = []


def say(topic, payload, note, **want):
    SESSION.append({"topic": "spBv1.0/Plant/" + topic, "note": note, "hex": payload.hex(), "want": want})


def session():
    """A node that uses aliases, as Eclipse Tahu's library encodes it."""
    birth = pb.Payload(timestamp=T, seq=0)
    metric(birth, "bdSeq", "Int64", long_value=7)
    metric(birth, "Node Control/Rebirth", "Boolean", boolean_value=False)
    metric(birth, "uptime", "UInt64", alias=0, long_value=18446744073709551615)
    say("NBIRTH/E1", birth.SerializeToString(), "a node is born", time=STAMP, seq=0, birth=True,
        values={"bdSeq": 7, "Node Control/Rebirth": False, "uptime": 18446744073709551615})

    birth = pb.Payload(timestamp=T, seq=1)
    m = metric(birth, "Inputs/Temp", "Float", alias=1, float_value=21.5)
    for key, typ, field, v in (("engUnit", "String", "string_value", "°C"), ("Quality", "Int32", "int_value", 500)):
        m.properties.keys.append(key)
        p = m.properties.values.add()
        p.type = NUMBER[typ]
        setattr(p, field, v)
    metric(birth, "Inputs/Level", "Int16", alias=2, time=T - 250, int_value=twos(-12, 16))
    metric(birth, "Inputs/Spare", "String", alias=3, is_null=True)
    t = metric(birth, "Pump", "Template", alias=4).template_value
    t.template_ref, t.is_definition = "Pump", False
    metric(t, "flow", "Int8", int_value=twos(-3, 8))
    say("DBIRTH/E1/D1", birth.SerializeToString(), "its device is born", time=STAMP, seq=1, birth=True,
        values={"Inputs/Temp": 21.5, "Inputs/Level": -12, "Inputs/Spare": None, "Pump": {"ref": "Pump", "values": {"flow": -3}}},
        quality={"Inputs/Temp": "stale"}, times={"Inputs/Level": "2017-02-03T17:55:01.872Z"}, properties={"Inputs/Temp": {"engUnit": "°C"}})

    data = pb.Payload(timestamp=T, seq=2)
    metric(data, None, alias=1, float_value=22.25)
    metric(data, None, alias=2, int_value=twos(-13, 16))
    t = metric(data, None, alias=4).template_value
    t.template_ref, t.is_definition = "Pump", False
    metric(t, "flow", int_value=twos(-4, 8))
    say("DDATA/E1/D1", data.SerializeToString(), "values by alias, without data types", time=STAMP, seq=2,
        values={"Inputs/Temp": 22.25, "Inputs/Level": -13, "Pump": {"ref": "Pump", "values": {"flow": -4}}})

    data = pb.Payload(timestamp=T, seq=3)
    metric(data, None, alias=1, time=T - 2000, is_historical=True, float_value=1.5)
    metric(data, None, alias=2, time=T - 20, int_value=1)
    metric(data, None, alias=2, time=T - 10, int_value=2)
    metric(data, None, alias=3, is_transient=True, string_value="x")
    say("DDATA/E1/D1", data.SerializeToString(), "history, and a metric twice", time=STAMP, seq=3,
        values={"Inputs/Level": 2, "Inputs/Spare": "x"}, times={"Inputs/Level": "2017-02-03T17:55:02.112Z"}, transient=["Inputs/Spare"],
        history=[{"name": "Inputs/Temp", "time": "2017-02-03T17:55:00.122Z", "value": 1.5},
                 {"name": "Inputs/Level", "time": "2017-02-03T17:55:02.102Z", "value": 1}])

    data = pb.Payload(timestamp=T, seq=4, uuid="schema-1", body=b"\0\1")
    metric(data, None, alias=99, int_value=5)
    m = metric(data, "blob", "Bytes", bytes_value=b"abc")
    m.metadata.is_multi_part, m.metadata.size, m.metadata.content_type = True, 3, "text/plain"
    say("NDATA/E1", data.SerializeToString(), "an alias that no birth told", time=STAMP, seq=4, values={"blob": "YWJj"},
        unresolved=[{"alias": 99, "value": 5, "quality": "untyped"}], metadata={"blob": {"is_multi_part": True, "content_type": "text/plain", "size": 3}},
        uuid="schema-1", body="AAE=")

    death = pb.Payload(timestamp=T, seq=5)
    say("DDEATH/E1/D1", death.SerializeToString(), "the device dies", time=STAMP, seq=5, death=True, values={},
        quality={"Inputs/Temp": "stale", "Inputs/Level": "stale", "Inputs/Spare": "stale", "Pump": "stale"})

    command = pb.Payload(timestamp=T)
    metric(command, "Node Control/Rebirth", "Boolean", boolean_value=True)
    say("NCMD/E1", command.SerializeToString(), "a command", time=STAMP, command=True, values={"Node Control/Rebirth": True})

    death = pb.Payload(timestamp=T)
    metric(death, "bdSeq", "Int64", long_value=6)
    say("NDEATH/E1", death.SerializeToString(), "the will of an earlier session", time="taken", values={"bdSeq": 6}, times={"bdSeq": STAMP})
    death = pb.Payload(timestamp=T)
    metric(death, "bdSeq", "Int64", long_value=7)
    say("NDEATH/E1", death.SerializeToString(), "the node dies", time="taken", death=True, values={"bdSeq": 7}, times={"bdSeq": STAMP},
        quality={"bdSeq": "stale", "Node Control/Rebirth": "stale", "uptime": "stale"})


def other_session():
    """A node as pysparkplug encodes it, without aliases."""
    m = lambda name, typ, v, time=T: ps.Metric(timestamp=time, name=name, datatype=typ, value=v)
    bd = m("bdSeq", ps.DataType.INT64, 0)
    birth = ps.NBirth(timestamp=T, seq=0, metrics=[bd, m("t", ps.DataType.INT8, -7), m("u", ps.DataType.UINT32, 4294967295), m("none", ps.DataType.STRING, None)])
    say("NBIRTH/E2", birth.encode(), "pysparkplug: birth", time=STAMP, seq=0, birth=True, values={"bdSeq": 0, "t": -7, "u": 4294967295, "none": None})
    data = ps.NData(timestamp=T, seq=1, metrics=[m("t", ps.DataType.INT8, -128), m("none", ps.DataType.STRING, "some")])
    say("NDATA/E2", data.encode(), "pysparkplug: data", time=STAMP, seq=1, values={"t": -128, "none": "some"})
    death = ps.NDeath(timestamp=T, bd_seq_metric=bd)
    say("NDEATH/E2", death.encode(include_dtypes=True), "pysparkplug: death", time="taken", death=True, values={"bdSeq": 0}, times={"bdSeq": STAMP},
        quality={"bdSeq": "stale", "t": "stale", "u": "stale", "none": "stale"})


def write(name, what):
    with open(name, "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(x, ensure_ascii=False, allow_nan=False) for x in what) + "\n]\n")
    print(name, len(what), file=sys.stderr)


def rebirths():
    """Requests for a rebirth, at a time."""
    old = pb.Payload(timestamp=T)
    metric(old, "Node Control/Rebirth", "Boolean", boolean_value=True)
    m = ps.Metric(timestamp=T, name="Node Control/Rebirth", datatype=ps.DataType.BOOLEAN, value=True)
    new = ps.NCmd(timestamp=T, metrics=[m])
    return [{"at": T, "hex": old.SerializeToString().hex()}, {"at": T, "hex": new.encode(include_dtypes=True).hex()}]


write("datatypes.json", datatypes())
write("rebirth.json", rebirths())
session()
other_session()
write("session.json", SESSION)
