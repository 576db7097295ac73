"""A Modbus server with known registers, for the end-to-end tests.

usage: modbus_server.py LINE POWER ENERGY RUNNING

LINE is tcp:PORT, rtu+tcp:PORT, rtu:DEVICE, ascii:DEVICE, or tls:PORT:FOLDER, where the folder holds server.pem,
server.key, and ca.pem, by which a client certificate must be signed.

Unit 3 holds one value of each table, unit 4 one scaled temperature, and so do units 11 to 15. On a serial line unit 13
is dead: what it answers is not sent. POWER (float), ENERGY (whole number) and RUNNING (0 or 1) are given on the
command line, so that a server started again can be told from the one before it.
"""

import asyncio
import ssl
import sys

from pymodbus import FramerType
from pymodbus.server import StartAsyncSerialServer, StartAsyncTcpServer, StartAsyncTlsServer
from pymodbus.simulator import DataType, SimData, SimDevice


def bits(address, value):
    """Sixteen bits from 0, all off but the one at address."""
    row = [False] * 16
    row[address] = value
    return [SimData(0, values=row, datatype=DataType.BITS)]


def meter(power, energy, running):
    """Unit 3. The tuple's order is coils, discrete inputs, holding registers, input registers."""
    holding = [
        SimData(500, values="LINE-A7 press 12", datatype=DataType.STRING),
        SimData(3059, values=power, datatype=DataType.FLOAT32),
    ]
    energy_block = [SimData(100, values=energy, datatype=DataType.UINT64)]
    return SimDevice(id=3, simdata=(bits(1, running), bits(12, True), holding, energy_block))


def probe(unit):
    """One int16 in the input registers, nothing elsewhere that is read."""
    nothing = [SimData(0, values=0, datatype=DataType.UINT16)]
    return SimDevice(
        id=unit,
        simdata=(bits(0, False), bits(0, False), nothing, [SimData(0, values=-123, datatype=DataType.INT16)]),
    )


def unit_13_is_dead(sending, data):
    """Drops what unit 13 sends."""
    return b"" if sending and data[0] == 13 else data


def server(line, devices):
    """The server of a line, not started yet."""
    kind, where = line.split(":", 1)
    if kind in ("rtu", "ascii"):
        return StartAsyncSerialServer(
            devices,
            framer=FramerType.RTU if kind == "rtu" else FramerType.ASCII,
            port=where,
            parity="N",  # a pty has none
            trace_packet=unit_13_is_dead,
        )
    if kind == "tls":
        port, folder = where.split(":", 1)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder + "/server.pem", folder + "/server.key")
        context.load_verify_locations(folder + "/ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        return StartAsyncTlsServer(devices, address=("127.0.0.1", int(port)), sslctx=context)
    framer = FramerType.RTU if kind == "rtu+tcp" else FramerType.SOCKET
    return StartAsyncTcpServer(devices, address=("127.0.0.1", int(where)), framer=framer)


def main():
    line, power, energy, running = sys.argv[1:5]
    devices = [meter(float(power), int(energy), running == "1")]
    devices += [probe(unit) for unit in (4, 11, 12, 13, 14, 15)]
    asyncio.run(server(line, devices))


main()
