// See device/unroll.h; on the host there is nothing to ask for.
#pragma once

#define NIBBLE_UNROLL
