#!/usr/bin/env python3
"""Writes images.json: what devices with the built-in profiles hold, and what a
reader must make of it. It knows nothing of the profiles: each table below is
written in the manual's own way of counting, and struct makes the bytes.

    python3 images.py > images.json
"""
import json
import struct

IMAGES = {}


class Image:
    """One device. count is what its manual's numbers start from on the wire."""

    def __init__(self, name, table, count=0, low_word_first=False):
        self.registers, self.want, self.table = {}, {}, table
        self.count, self.low_word_first = count, low_word_first
        IMAGES[name] = {"table": table, "registers": self.registers, "want": self.want}

    def put(self, tag, number, form, raw, value=None):
        data = struct.pack(">" + form, raw)
        words = [data[i:i + 2].hex() for i in range(0, len(data), 2)]
        if self.low_word_first:
            words.reverse()
        for i, word in enumerate(words):
            at = str(number - self.count + i)
            assert at not in self.registers, (tag, at)
            self.registers[at] = word
        self.want[tag] = raw if value is None else value

    def row(self, first, form, *tags, step=2, start=100.25):
        for i, tag in enumerate(tags):
            self.put(tag, first + step * i, form, start + i)


def phases(name):
    return [f"{name}_l{n}" for n in (1, 2, 3)]


# Eastron counts input registers from 30001.
d = Image("eastron-sdm630", "input", 30001)
d.row(30001, "f", *phases("voltage"), start=229.5)
d.row(30007, "f", *phases("current"), start=4.75)
d.row(30013, "f", *phases("power"), start=-1200.5)
d.row(30019, "f", *phases("apparent_power"), start=1300.5)
d.row(30025, "f", *phases("reactive_power"), start=-300.25)
d.row(30031, "f", *phases("power_factor"), start=-0.875)
d.put("power", 30053, "f", -3598.5)
d.put("apparent_power", 30057, "f", 3904.5)
d.put("reactive_power", 30061, "f", -897.75)
d.put("power_factor", 30063, "f", -0.921875)
d.put("frequency", 30071, "f", 49.984375)
d.put("energy_import", 30073, "f", 4711.25)
d.put("energy_export", 30075, "f", 815.5)
d.put("reactive_energy_import", 30077, "f", 17.5)
d.put("reactive_energy_export", 30079, "f", 18.5)
d.put("energy_total", 30343, "f", 5526.75)

# Schneider's list counts from 1.
d = Image("schneider-pm5300", "holding", 1)
d.row(3000, "f", *phases("current"), "current_n", start=101.5)
d.put("current_avg", 3010, "f", 102.5)
d.row(3020, "f", "voltage_l1_l2", "voltage_l2_l3", "voltage_l3_l1", "voltage_ll_avg", start=399.5)
d.row(3028, "f", *phases("voltage"), start=230.5)
d.put("voltage_ln_avg", 3036, "f", 231.5)
d.row(3054, "f", *phases("power"), "power", start=20.5)
d.row(3062, "f", *phases("reactive_power"), "reactive_power", start=-5.5)
d.row(3070, "f", *phases("apparent_power"), "apparent_power", start=21.5)
d.put("frequency", 3110, "f", 50.015625)
d.put("energy_import", 3204, "q", 123456789012, 123456789.012)
d.put("energy_export", 3208, "q", -2**63, None)
d.want["energy_export"] = "missing"
d.put("reactive_energy_import", 3220, "q", 987654321, 987654.321)
d.put("reactive_energy_export", 3224, "q", 1, 0.001)

# Siemens' offset is the address.
d = Image("siemens-pac3200", "holding")
d.row(1, "f", *phases("voltage"), "voltage_l1_l2", "voltage_l2_l3", "voltage_l3_l1", start=230.25)
d.row(13, "f", *phases("current"), start=55.5)
d.row(19, "f", *phases("apparent_power"), start=12000.5)
d.row(25, "f", *phases("power"), start=-11000.5)
d.row(31, "f", *phases("reactive_power"), start=500.5)
d.row(37, "f", *phases("power_factor"), start=0.5)
d.row(43, "f", *[f"_thd{i}" for i in range(6)])  # there, and not in the profile
d.put("frequency", 55, "f", 49.96875)
d.put("voltage_ln_avg", 57, "f", 231.25)
d.put("voltage_ll_avg", 59, "f", 400.25)
d.put("current_avg", 61, "f", 56.5)
d.put("apparent_power", 63, "f", 36004.5)
d.put("power", 65, "f", -32998.5)
d.put("reactive_power", 67, "f", 1504.5)
d.put("power_factor", 69, "f", 0.9375)
d.put("energy_import_t1", 801, "d", 1234567890.5, 1234567.8905)
d.put("energy_import_t2", 805, "d", 2000.0, 2.0)
d.put("energy_export_t1", 809, "d", 3500.0, 3.5)
d.put("energy_export_t2", 813, "d", 0.0, 0.0)

# Janitza's addresses are those on the wire; 4A38 hex is its manual's example.
d = Image("janitza-umg96", "holding")
d.row(0x4A38, "f", *phases("voltage"), "voltage_l1_l2", "voltage_l2_l3", "voltage_l3_l1", start=230.0)
d.row(19012, "f", *phases("current"), "current_n", start=7.5)
d.row(19020, "f", *phases("power"), "power", start=-1700.5)
d.row(19028, "f", *phases("apparent_power"), "apparent_power", start=1800.5)
d.row(19036, "f", *phases("reactive_power"), "reactive_power", start=90.5)
d.row(19044, "f", *phases("cos_phi"), start=-0.984375)
d.put("frequency", 19050, "f", 50.03125)
d.put("energy_total", 19060, "f", 900000.0)
d.put("energy_import", 19068, "f", 1000000.0)
d.put("energy_export", 19076, "f", 100000.0)
d.row(19110, "f", *phases("thd_voltage"), *phases("thd_current"), start=1.5)

# SMA's register number is the address; FIXn has n decimals. As at night: what
# the sun drives is not there.
d = Image("sma-sunny-tripower", "holding")
d.put("device_status", 30201, "I", 307)
d.put("energy_total", 30513, "Q", 98765432109)
d.put("energy_today", 30517, "Q", 2**64 - 1)
d.want["energy_today"] = "missing"
d.put("dc_current_1", 30769, "i", -2**31)
d.want["dc_current_1"] = "missing"
d.put("dc_voltage_1", 30771, "i", 61234, 612.34)
d.put("dc_power_1", 30773, "i", -2**31)
d.want["dc_power_1"] = "missing"
d.put("power", 30775, "i", -2**31)
d.want["power"] = "missing"
for i, tag in enumerate(phases("power")):
    d.put(tag, 30777 + 2 * i, "i", 4000 + i)
for i, tag in enumerate(phases("voltage")):
    d.put(tag, 30783 + 2 * i, "I", 23001 + i, (23001 + i) / 100)
d.put("frequency", 30803, "I", 4998, 49.98)
d.put("reactive_power", 30805, "i", -17)
d.put("apparent_power", 30813, "i", 12003)
d.put("temperature", 30953, "i", -45, -4.5)
d.put("dc_current_2", 30957, "i", 1234, 1.234)
d.put("dc_voltage_2", 30959, "i", 60001, 600.01)
d.put("dc_power_2", 30961, "i", 740)

# ABB's hex numbers are those on the wire.
d = Image("abb-b23", "holding")
d.put("energy_import", 0x5000, "Q", 123456, 1234.56)
d.put("energy_export", 0x5004, "Q", 2**64 - 1)
d.want["energy_export"] = "missing"
d.put("energy_net", 0x5008, "q", -100, -1.0)
d.put("reactive_energy_import", 0x500C, "Q", 5, 0.05)
d.put("reactive_energy_export", 0x5010, "Q", 6, 0.06)
for i, tag in enumerate(phases("voltage") + ["voltage_l1_l2", "voltage_l3_l2", "voltage_l1_l3"]):
    d.put(tag, 0x5B00 + 2 * i, "I", 2305 + i, (2305 + i) / 10)
for i, tag in enumerate(phases("current")):
    d.put(tag, 0x5B0C + 2 * i, "I", 1001 + i, (1001 + i) / 100)
for i, tag in enumerate(["power"] + phases("power") + ["reactive_power"]):
    d.put(tag, 0x5B14 + 2 * i, "i", -123456 + i, (-123456 + i) / 100)
d.put("frequency", 0x5B2C, "H", 5001, 50.01)
d.put("power_factor", 0x5B3A, "h", -987, -0.987)
d.put("power_factor_l1", 0x5B3B, "h", 1000, 1.0)
d.put("power_factor_l2", 0x5B3C, "h", 32767)
d.want["power_factor_l2"] = "missing"
d.put("power_factor_l3", 0x5B3D, "h", 1, 0.001)

# Carlo Gavazzi's Modicom numbers count from 300001; the low word comes first.
d = Image("carlo-gavazzi-em24", "input", 300001, low_word_first=True)


def gavazzi(d, first, form, weight, *tags, step=2, start=0):
    for i, tag in enumerate(tags):
        d.put(tag, first + step * i, form, start + i, (start + i) / weight)


gavazzi(d, 300001, "i", 10, *phases("voltage"), "voltage_l1_l2", "voltage_l2_l3", "voltage_l3_l1", start=2301)
gavazzi(d, 300013, "i", 1000, *phases("current"), start=70001)
gavazzi(d, 300019, "i", 10, *phases("power"), start=-70002)
gavazzi(d, 300025, "i", 10, *phases("apparent_power"), start=80003)
gavazzi(d, 300031, "i", 10, *phases("reactive_power"), start=-9)
gavazzi(d, 300041, "i", 10, "power", "apparent_power", "reactive_power", start=-210000)
gavazzi(d, 300051, "h", 1000, *phases("power_factor"), "power_factor", step=1, start=-999)
gavazzi(d, 300056, "H", 10, "frequency", start=500)
gavazzi(d, 300063, "i", 10, "energy_import", "reactive_energy_import", start=1234567)
gavazzi(d, 300071, "i", 10, *phases("energy_import"), start=400000)
gavazzi(d, 300093, "i", 10, "energy_export", "reactive_energy_export", start=77)

d = Image("carlo-gavazzi-em24-e1", "input", 0, low_word_first=True)
gavazzi(d, 0x00, "i", 10, *phases("voltage"), start=2301)
gavazzi(d, 0x0C, "i", 1000, *phases("current"), start=70001)
gavazzi(d, 0x12, "i", 10, *phases("power"), start=-70002)
gavazzi(d, 0x28, "i", 10, "power", "apparent_power", "reactive_power", start=-210000)
gavazzi(d, 0x33, "H", 10, "frequency", start=500)
gavazzi(d, 0x34, "i", 10, "energy_import", start=1234567)
gavazzi(d, 0x40, "i", 10, *phases("energy_import"), start=400000)
gavazzi(d, 0x4E, "i", 10, "energy_export", start=77)

for image in IMAGES.values():
    image["want"] = {tag: v for tag, v in image["want"].items() if not tag.startswith("_")}
print(json.dumps(IMAGES, indent=0))
