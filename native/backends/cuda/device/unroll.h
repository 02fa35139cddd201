// Before a loop whose arrays are to stay in registers.
#pragma once

#define NIBBLE_UNROLL _Pragma("unroll")
