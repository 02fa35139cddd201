// Loads the compiled addon: $NIBBLE_ADDON, for tests and for machines that were only given files, or what the bootstrap
// builds. Only the files beside this one call it.
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { checkBoundary } from "./boundary.ts";

const built = fileURLToPath(new URL("../build/native/Release/nibble.node", import.meta.url));
const path = resolve(process.env["NIBBLE_ADDON"] ?? built);

// biome-ignore lint/suspicious/noExplicitAny: the addon's functions are typed by the facade in this folder
export const addon: any = createRequire(import.meta.url)(path);
checkBoundary(addon, path);
