// Loads the compiled addon. Only the files beside this one call it.
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const path = fileURLToPath(new URL("../build/native/Release/nibble.node", import.meta.url));

// biome-ignore lint/suspicious/noExplicitAny: the addon's functions are typed by the facade in this folder
export const addon: any = createRequire(import.meta.url)(path);
