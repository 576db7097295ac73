"""A Modbus TCP server with known registers, for the end-to-end tests.

usage: modbus_server.py PORT POWER ENERGY RUNNING

Unit 3 holds one value of each table, unit 4 one scaled temperature. POWER (float), ENERGY (whole number) and RUNNING
(0 or 1) are given on the command line, so that a server started again can be told from the one before it.
"""

import asyncio
import sys

from pymodbus.server import StartAsyncTcpServer
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


def probe():
    """Unit 4: one int16 in the input registers, nothing elsewhere that is read."""
    nothing = [SimData(0, values=0, datatype=DataType.UINT16)]
    return SimDevice(
        id=4,
        simdata=(bits(0, False), bits(0, False), nothing, [SimData(0, values=-123, datatype=DataType.INT16)]),
    )


def main():
    port, power, energy, running = sys.argv[1:5]
    devices = [meter(float(power), int(energy), running == "1"), probe()]
    asyncio.run(StartAsyncTcpServer(devices, address=("127.0.0.1", int(port))))


main()
