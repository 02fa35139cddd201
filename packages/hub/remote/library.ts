// @huggingface/hub, loaded when the Hub is first asked: commands that stay on this machine do not wait for it.
export function hubLibrary(): Promise<typeof import("@huggingface/hub")> {
  return import("@huggingface/hub");
}
