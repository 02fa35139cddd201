// A multipart body with one file, which goes to the disk as it comes. It knows no API.
import { createWriteStream } from "node:fs";
import { pipeline } from "node:stream/promises";
import { Busboy, type BusboyInstance } from "@fastify/busboy";
import { badRequest, type Request } from "#packages/http";

export interface Upload {
  fields: Record<string, string>;
  /** As the client calls it, without folders; null where no file came. */
  fileName: string | null;
  bytes: number;
}

const fieldsMax = 16;
const fieldBytesMax = 4096;

/**
 * Writes the body's file to `path`, at most `bytesMax` bytes of it.
 * @throws INVALID_ARGUMENT for what is no such body, a second file or one too large; the file at `path` is then
 * whatever came.
 */
export async function receiveUpload(
  { headers, body, signal }: Pick<Request, "headers" | "body" | "signal">,
  path: string,
  bytesMax: number,
): Promise<Upload> {
  const type = headers["content-type"] ?? "";
  if (!/^multipart\/form-data\s*;/i.test(type)) {
    throw badRequest(`Content-Type: expected multipart/form-data with a boundary, got ${type || "none"}`);
  }
  const upload: Upload = { fields: {}, fileName: null, bytes: 0 };
  const written: Promise<void>[] = [];
  const ended = Promise.withResolvers<void>();
  const over = new AbortController();
  const parser = open(headers, type, bytesMax);
  parser.on("field", (name, value) => {
    upload.fields[name] = value;
  });
  parser.on("file", (_, file, fileName) => {
    upload.fileName = (fileName ?? "").slice(0, 255);
    file.on("limit", () => {
      const message = `file: expected at most ${bytesMax} bytes, got more`;
      ended.reject(badRequest(message, { param: "file", reason: "too_large" }));
    });
    const out = createWriteStream(path, { mode: 0o600 });
    written.push(
      pipeline(file, out, { signal: AbortSignal.any([signal, over.signal]) }).then(() => {
        upload.bytes = out.bytesWritten;
      }),
    );
    written.at(-1)?.catch(ended.reject);
  });
  for (const limit of ["filesLimit", "fieldsLimit", "partsLimit"] as const) {
    parser.on(limit, () => ended.reject(badRequest(`the body: expected one file and few fields, got more (${limit})`)));
  }
  parser.on("error", (error) => ended.reject(badRequest(`the body: expected multipart/form-data: ${String(error)}`)));
  parser.on("finish", ended.resolve);
  ended.promise.catch(() => {});
  try {
    await Promise.race([feed(body, parser), ended.promise.then(() => new Promise<void>(() => {}))]);
    await ended.promise;
    await Promise.all(written);
  } catch (thrown) {
    over.abort();
    parser.destroy();
    await Promise.allSettled(written);
    throw thrown;
  }
  return upload;
}

function open(headers: Request["headers"], type: string, bytesMax: number): BusboyInstance {
  const limits = { files: 1, fields: fieldsMax, parts: fieldsMax + 1, fieldSize: fieldBytesMax, fileSize: bytesMax };
  try {
    return new Busboy({ headers: { ...headers, "content-type": type }, limits });
  } catch (thrown) {
    throw badRequest(`Content-Type: expected multipart/form-data with a boundary: ${(thrown as Error).message}`);
  }
}

/** The next piece is read when the parser has taken the last one. */
async function feed(body: AsyncIterable<Buffer>, parser: BusboyInstance): Promise<void> {
  for await (const piece of body) {
    if (parser.destroyed) return;
    if (!parser.write(piece)) {
      await new Promise<void>((resolve) => {
        for (const event of ["drain", "close", "error"]) parser.once(event, () => resolve());
      });
    }
  }
  parser.end();
}
