// What every command does around its own work: choose the backend, close it whatever happens.
import type { Backend } from "../backend.ts";
import { localFolder } from "../hub-folder.ts";
import type { Io } from "../io.ts";

/** Imported when needed: --help and a wrong flag should not wait for the engine or gRPC to load. */
async function backendOf(io: Io, endpoint: string | undefined): Promise<Backend> {
  if (endpoint === undefined) {
    return new (await import("../embedded.ts")).EmbeddedBackend((text, options) => localFolder(io, text, options));
  }
  return new (await import("../remote/index.ts")).RemoteBackend(endpoint);
}

export async function withBackend<T>(
  io: Io,
  endpoint: string | undefined,
  work: (backend: Backend) => Promise<T>,
): Promise<T> {
  const backend = await backendOf(io, endpoint ?? io.env["NIBBLE_ENDPOINT"]);
  try {
    return await work(backend);
  } finally {
    await backend.close();
  }
}
