/* A Modbus RTU server of libmodbus with the registers of modbus_server.py's unit 3, for the end-to-end tests.
 *
 * usage: libmodbus_server DEVICE POWER ENERGY RUNNING
 *
 * A server of libmodbus is one unit: what is sent to another one it reads and ignores.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <modbus/modbus.h>

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    modbus_t *line = modbus_new_rtu(argv[1], 19200, 'N', 8, 1); /* a pty has no parity */
    /* 9000 is beyond the end, so that it is an illegal address. */
    modbus_mapping_t *map = modbus_mapping_new(16, 16, 3061, 104);
    uint64_t energy = strtoull(argv[3], NULL, 10);
    const char *label = "LINE-A7 press 12";
    if (line == NULL || map == NULL)
        return 1;
    float power = (float)atof(argv[2]);
    uint32_t bits;
    memcpy(&bits, &power, sizeof bits);
    map->tab_registers[3059] = (uint16_t)(bits >> 16);
    map->tab_registers[3060] = (uint16_t)bits;
    for (int i = 0; i < 8; i++)
        map->tab_registers[500 + i] = (uint16_t)((uint8_t)label[2 * i] << 8 | (uint8_t)label[2 * i + 1]);
    for (int i = 0; i < 4; i++)
        map->tab_input_registers[100 + i] = (uint16_t)(energy >> (48 - 16 * i));
    map->tab_input_registers[0] = (uint16_t)-123;
    map->tab_bits[1] = (uint8_t)atoi(argv[4]);
    map->tab_input_bits[12] = 1;
    modbus_set_slave(line, 3);
    if (modbus_connect(line) != 0) {
        fprintf(stderr, "%s: %s\n", argv[1], modbus_strerror(errno));
        return 1;
    }
    for (;;) {
        uint8_t request[MODBUS_RTU_MAX_ADU_LENGTH];
        int n = modbus_receive(line, request);
        if (n > 0 && request[0] == 3)
            modbus_reply(line, request, n, map);
        else if (n < 0 && errno != EMBBADCRC && errno != ETIMEDOUT && errno != EAGAIN) {
            fprintf(stderr, "receive: %s\n", modbus_strerror(errno));
            return 1;
        }
    }
}
