// Requests to the robot. Every error becomes a `Problem` that says what is wrong and what to do.

export class Problem extends Error {
  constructor(status, title, detail, remedy) {
    super(detail || title);
    this.status = status;
    this.remedy = remedy || "";
  }
}

export const session = { csrf: "", driver: "none", watchers: 0, robot: { kind: "", name: "" }, paired: false, version: "" };

/** JSON of `path`; undefined for 204. Throws `Problem`; status 0 when the robot did not answer at all. */
export async function ask(path, { method = "GET", body, signal } = {}) {
  const headers = { accept: "application/json" };
  if (method !== "GET") headers["X-CSRF"] = session.csrf;
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers, signal, cache: "no-store", credentials: "same-origin", body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "no answer", "The robot does not answer.", "Is it switched on and in the same network?");
  }
  if (!answer.ok) throw await problemOf(answer);
  return answer.status === 204 ? undefined : answer.json();
}

export const post = (path, body = {}, signal = undefined) => ask(path, { method: "POST", body, signal });

export async function problemOf(answer) {
  const told = await answer.json().catch(() => ({}));
  const detail = typeof told.detail === "string" ? told.detail : "";
  return new Problem(answer.status, told.title || answer.statusText, detail || told.title || `The robot answered ${answer.status}.`, told.remedy);
}

/** Who we are to the robot. Throws `Problem` 401 where the page is not paired yet. */
export async function openSession() {
  Object.assign(session, await ask("/v1/session"));
  return session;
}
