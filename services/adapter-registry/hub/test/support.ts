// A registry whose Hub API is talked to through @huggingface/hub, and by plain requests where it is about headers.
import { randomBytes } from "node:crypto";
import type { TestContext } from "node:test";
import { createRepo, listFiles, uploadFiles } from "@huggingface/hub";
import { startRegistry, type TestOptions, type TestRegistry } from "../../test/support.ts";

export const token = "hf_secret";

export interface TestHub extends TestRegistry {
  /** Arguments of every call of @huggingface/hub. */
  as: { hubUrl: string; accessToken: string };
}

export async function startHub(t: TestContext, options: TestOptions = {}): Promise<TestHub> {
  const registry = await startRegistry(t, options);
  return { ...registry, as: { hubUrl: registry.hubUrl, accessToken: token } };
}

/** With zero bytes, so that it goes as a large file. */
export const binary = (size: number): Buffer => Buffer.concat([Buffer.alloc(8), randomBytes(Math.max(0, size - 8))]);

export interface NamedFile {
  path: string;
  content: string | Uint8Array;
}

export const blobOf = (content: string | Uint8Array): Blob => new Blob([content as Uint8Array<ArrayBuffer>]);

/** Makes the repository and commits the files; returns the commit's id. */
export async function push({ as }: TestHub, name: string, files: readonly NamedFile[]): Promise<string> {
  await createRepo({ ...as, repo: name }).catch((error: { statusCode?: number }) => {
    if (error.statusCode !== 409) throw error;
  });
  const all = files.map(({ path, content }) => ({ path, content: blobOf(content) }));
  const made = await uploadFiles({ ...as, repo: name, files: all, useXet: false });
  return made?.commit.oid ?? "";
}

export async function pathsOf({ as }: TestHub, repo: string, revision = "main"): Promise<string[]> {
  const paths: string[] = [];
  for await (const { path } of listFiles({ ...as, repo, revision, recursive: true })) paths.push(path);
  return paths;
}
