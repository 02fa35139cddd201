// Which nvcc a build takes. It installs nothing: toolkit.mjs does.
import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";

/** Where `npm run build:cuda` puts the project's own. */
export const toolkit = fileURLToPath(new URL("../../build/cuda/toolkit", import.meta.url));

/**
 * A path, or null where there is none: $CUDACXX, $CUDAToolkit_ROOT/bin/nvcc, the project's own, that of the path.
 * NIBBLE_CUDA=off: none.
 */
export function nvcc() {
  const { CUDACXX, CUDAToolkit_ROOT, NIBBLE_CUDA, PATH = "" } = process.env;
  if (NIBBLE_CUDA === "off") return null;
  if (CUDACXX) return CUDACXX;
  const folders = [toolkit, ...PATH.split(delimiter)];
  if (CUDAToolkit_ROOT) folders.unshift(CUDAToolkit_ROOT);
  const found = folders.flatMap((f) => [join(f, "nvcc"), join(f, "bin", "nvcc")]).find(existsSync);
  return found ?? null;
}
