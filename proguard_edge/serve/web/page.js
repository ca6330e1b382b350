"use strict";
// Behaviour of the page. Names come from a model and texts from anybody: all of it enters the
// document as text nodes. What is not a whole verdict is shown as an error, never as "safe".

const THEME = "proguard-edge.theme";
const KEY = "proguard-edge.key";
const POLL_MS = 2000;
const UNSEEN_MS = 10000; // grouping thousands of names costs the server something
const OWN = ""; // a policy typed here, in place of a name
const PHASES = ["prefix", "preprocess", "ocr", "vision", "prefill", "reason", "decode"];
const LOOKED_AT = {
  user_text: "user’s text", response: "response", image: "image", image_text: "text in the image",
};
const MODES = { verdict: "verdict", reason: "verdict with reasoning" };

// ---- Storage and theme. Storage may be forbidden; the page then forgets.

function recall(storage, name) {
  try {
    return window[storage].getItem(name);
  } catch {
    return null;
  }
}

function keep(storage, name, value) {
  try {
    if (value) window[storage].setItem(name, value);
    else window[storage].removeItem(name);
  } catch { /* forgotten */ }
}

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

function currentTheme() {
  return document.documentElement.dataset.theme ?? "auto";
}

function nextTheme() {
  return { auto: "light", light: "dark", dark: "auto" }[currentTheme()];
}

function showTheme() {
  const theme = currentTheme();
  write("theme-word", `Theme: ${theme}`);
  $("theme").setAttribute("aria-label", `Theme: ${theme}. Change to ${nextTheme()}`);
  $("theme").querySelector("use").setAttribute("href", `#icon-${theme}`);
}

// Before the body is there, so that nothing flashes.
if (["light", "dark"].includes(recall("localStorage", THEME))) {
  setTheme(recall("localStorage", THEME));
}

// ---- The document

function $(id) {
  return document.getElementById(id);
}

function write(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

/** An element. Children are elements or texts; `attributes` are ours, never data. */
function make(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** A bar or meter that fills `share` of its room. */
function filled(className, share) {
  const bar = make("span", className);
  bar.style.setProperty("--share", Math.max(0, Math.min(1, share)));
  return bar;
}

function titled(element, title) {
  element.title = title;
  return element;
}

/** Three decimals that never round over the threshold, or to a certainty that is none. */
function scoreText(score) {
  if (score > 0 && score < 0.0005) return "<0.001";
  if (score < 1 && score >= 0.9995) return ">0.999";
  if (score < 0.5 && score >= 0.4995) return "<0.500";
  return score.toFixed(3);
}

function secondsText(seconds) {
  if (typeof seconds !== "number") return "–";
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(2)} s`;
}

function msText(ms) {
  return ms < 0.1 ? "<0.1" : ms.toFixed(1);
}

function bytesText(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function timeText(date) {
  return date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

// ---- Copying

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return;
  } catch { /* not given to pages without TLS: the old way */ }
  const before = document.activeElement;
  const area = make("textarea", "visually-hidden");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  before?.focus();
}

async function copyFrom(button, words, text) {
  await copy(text);
  const said = words.textContent;
  if (said === "copied") return;
  words.textContent = "copied";
  write("said", "Copied.");
  setTimeout(() => {
    if (words.textContent === "copied") words.textContent = said;
  }, 1200);
}

function showDigest(button, digest) {
  if (button.title === digest) return;
  button.textContent = `${digest.slice(0, 12)}…`;
  button.title = digest;
  button.setAttribute("aria-label", `Copy the artifact’s digest, ${digest.slice(0, 12)}…`);
}

// ---- The server

/** Why there is no verdict. status: HTTP, 0 = the server gave no answer or was not asked. */
class Failure extends Error {
  constructor(message, { status = 0, code = "", retryAfter = 0, id = "" } = {}) {
    super(message);
    Object.assign(this, { status, code, retryAfter, id });
  }
}

let key = recall("sessionStorage", KEY);

/** The answer, where it is one of success. Raises Failure; AbortError where it was cancelled. */
async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server gave no answer: it is not running, or cannot be reached.", {
      code: "no connection",
    });
  }
  if (answer.status === 401) showKeyForm(true);
  if (!answer.ok) throw await failureOf(answer);
  return answer;
}

async function failureOf(answer) {
  const text = await answer.text().catch(() => "");
  let said = {};
  try {
    said = JSON.parse(text).error ?? {};
  } catch { /* not ours: a proxy's page, or the server's own words */ }
  const message = said.message ?? text.split("\n")[0].slice(0, 300);
  return new Failure(String(message || answer.statusText || "The server gave no reason."), {
    status: answer.status,
    code: String(said.code ?? ""),
    retryAfter: Math.min(3600, Number.parseInt(answer.headers.get("Retry-After"), 10) || 0),
    id: answer.headers.get("X-Request-Id") ?? "",
  });
}

async function callJson(path, options) {
  const answer = await call(path, options);
  try {
    return await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The answer broke off, or is no JSON.", {
      status: answer.status, id: answer.headers.get("X-Request-Id") ?? "",
    });
  }
}

// ---- The key

function showKeyForm(refused) {
  $("key-form").hidden = false;
  $("key-forget").hidden = !key;
  if (!refused) return;
  write("key-hint", key
    ? "The server refused this key."
    : "This server wants a key. It is kept in this tab alone, until the tab is closed.");
}

async function useKey(event) {
  event.preventDefault();
  const given = $("key").value.trim();
  // Other characters cannot stand in a header.
  if (!/^[\x21-\x7e]+$/.test(given)) {
    write("key-hint", "A key has letters, digits and dashes alone.");
    return;
  }
  setKey(given);
  write("key-hint", "Asking the server …");
  await start();
  if (connected) {
    write("key-hint", "The server took the key. It is kept in this tab alone, until the tab is closed.");
    showFailure(null);
    $("judge").focus();
  }
}

function setKey(given) {
  key = given;
  keep("sessionStorage", KEY, given);
  $("key").value = "";
  $("key-forget").hidden = !given;
}

// ---- Policies and modes

let policies = [];

async function loadPolicies() {
  const known = await callJson("v1/policies");
  const chosen = $("policy").selectedOptions[0]?.value;
  policies = known.policies;
  $("policy").replaceChildren(...policies.map((each) =>
    new Option(policyText(each), each.name)));
  if (known.inline) $("policy").add(new Option("your own, typed below", OWN));
  const still = [...$("policy").options].find((option) => option.value === chosen);
  if (still) still.selected = true;
  showPolicy();
}

function policyText(policy) {
  return `${policy.name} (${policy.title}, version ${policy.version})`;
}

/** undefined for one's own. */
function chosenPolicy() {
  return policies.find((each) => each.name === $("policy").value);
}

function showPolicy() {
  const chosen = chosenPolicy();
  $("own").hidden = chosen !== undefined || policies.length === 0;
  $("categories").hidden = chosen === undefined;
  if (!chosen) return;
  write("categories-title", `Its ${chosen.categories.length} categories`);
  $("categories-list").replaceChildren(...chosen.categories.map((category) => make(
    "li", /S/.test(category.id) ? "sub" : "",
    make("span", "id", category.id), ` ${category.name}. `,
    make("span", "muted", category.description),
  )));
}

function showModes(modes, preferred) {
  const before = [...$("mode").options].map((option) => option.value);
  if (before.join() === modes.join()) return;
  const chosen = before.length ? $("mode").value : preferred;
  $("mode").replaceChildren(...modes.map((mode) => new Option(MODES[mode] ?? mode, mode)));
  if (modes.includes(chosen)) $("mode").value = chosen;
}

function showEyes(modalities, textOnly) {
  $("blind").hidden = !textOnly && modalities.some((each) => each.includes("image"));
  write("blind", textOnly
    ? "Of an image the text written in it is judged, and nothing else."
    : "This artifact reads text only. A request with an image gets no verdict.");
}

// ---- Content: texts, and pictures with their previews

let pictures = [];

function addFiles(files, field) {
  for (const file of files) {
    if (/^text\/|^application\/json$/.test(file.type) || /\.(txt|md|log)$/i.test(file.name)) {
      file.text().then((text) => {
        (field ?? $("user")).value = text;
        edited();
      }, () => write("said", `${file.name} cannot be read.`));
    } else {
      pictures.push({ file, url: URL.createObjectURL(file) });
    }
  }
  showPictures();
  edited();
}

function removePicture(picture) {
  const at = pictures.indexOf(picture);
  URL.revokeObjectURL(picture.url);
  pictures.splice(at, 1);
  showPictures();
  edited();
  const buttons = $("pictures").querySelectorAll("button");
  (buttons[Math.min(at, buttons.length - 1)] ?? $("files")).focus();
}

function showPictures() {
  $("pictures").hidden = pictures.length === 0;
  $("pictures").replaceChildren(...pictures.map(pictureItem));
}

function pictureItem(picture) {
  const { file, url } = picture;
  const image = document.createElement("img");
  image.alt = "";
  // Formats that the server reads and the browser does not.
  image.addEventListener("error", () => image.replaceWith(icon("picture")));
  image.src = url;
  const remove = make("button", "remove", icon("remove"));
  remove.type = "button";
  remove.setAttribute("aria-label", `Remove ${file.name}`);
  remove.addEventListener("click", () => removePicture(picture));
  const name = make("span", "picture-name", `${file.name} `, make("span", "muted", bytesText(file.size)));
  return make("li", "", make("span", "thumb", image), titled(name, file.name), remove);
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(new Failure(
      `${file.name} cannot be read any more. Choose it again.`, { code: "not sent" })));
    reader.readAsDataURL(file);
  });
}

/** The body of the request. Raises Failure where there is nothing to send. */
async function content() {
  const body = {};
  if ($("user").value) body.user = $("user").value;
  if ($("response").value) body.response = $("response").value;
  if (pictures.length) body.image = await Promise.all(pictures.map(({ file }) => dataUrl(file)));
  if (!Object.keys(body).length) {
    throw new Failure("There is nothing to judge: give a text or an image.", { code: "not sent" });
  }
  if ($("mode").value) body.mode = $("mode").value;
  if ($("policy").value !== OWN) body.policy = $("policy").value;
  else if (!$("own").hidden) body.policy = ownPolicy();
  return JSON.stringify(body);
}

function ownPolicy() {
  try {
    return JSON.parse($("own-policy").value);
  } catch (error) {
    throw new Failure(`Your policy is no JSON: ${error.message}`, { code: "not sent" });
  }
}

// ---- Judging

let edits = 0; // how often the content was changed
let underWay = null; // AbortController of the request that is under way
let shown = null; // the verdict on the page

function edited() {
  edits += 1;
  if (!$("verdict").hidden || !$("failure").hidden) markStale(true);
}

function markStale(stale) {
  $("outcome").toggleAttribute("data-stale", stale);
  $("stale").hidden = !stale;
}

/** One of the outcome's parts: "empty", "working", "failure", "verdict". */
function showOutcome(part) {
  for (const each of ["empty", "working", "failure", "verdict"]) $(each).hidden = each !== part;
  $("copy-json").hidden = part !== "verdict";
  $("outcome").setAttribute("aria-busy", String(part === "working"));
  markStale(false);
  write("said", "");
  write("alarm", "");
  clearInterval(waiting);
}

async function judge() {
  if (underWay) return;
  const mine = new AbortController();
  const edition = edits;
  underWay = mine;
  shown = null;
  $("judge").setAttribute("aria-disabled", "true");
  showOutcome("working");
  write("said", "Judging.");
  const clock = runClock();
  try {
    const body = await content();
    const policy = chosenPolicy();
    const begin = performance.now();
    const verdict = await callJson("v1/verdicts", {
      method: "POST", headers: { "Content-Type": "application/json" }, body, signal: mine.signal,
    });
    const seconds = (performance.now() - begin) / 1000;
    if (mine === underWay) showVerdict(verdict, policy, seconds);
  } catch (error) {
    if (mine !== underWay || error.name === "AbortError") return;
    showFailure(error instanceof Failure ? error : new Failure(`The page failed: ${error.message}`));
  } finally {
    clearInterval(clock);
    if (mine === underWay) done();
  }
  if (edits !== edition && !underWay) edited();
}

function done() {
  underWay = null;
  $("judge").removeAttribute("aria-disabled");
  poll();
}

/** Whoever cancels gets no verdict; the server drops the request. */
function cancel() {
  underWay?.abort();
  if (underWay) done();
  showOutcome("empty");
}

function clearContent() {
  cancel();
  for (const id of ["user", "response"]) $(id).value = "";
  for (const { url } of pictures) URL.revokeObjectURL(url);
  pictures = [];
  showPictures();
  edits += 1;
  shown = null;
  $("user").focus();
}

function runClock() {
  const begin = performance.now();
  write("elapsed", "0.0 s");
  return setInterval(() => {
    write("elapsed", `${((performance.now() - begin) / 1000).toFixed(1)} s`);
  }, 100);
}

// ---- A verdict

function isJudgement(part) {
  return (part?.label === "safe" || part?.label === "unsafe") && typeof part.score === "number";
}

function isVerdict(verdict) {
  return isJudgement(verdict?.request)
    && (verdict.response === null || isJudgement(verdict.response))
    && (verdict.category === null || typeof verdict.category?.name === "string")
    && Array.isArray(verdict.evaluated) && typeof verdict.artifact === "string";
}

function showVerdict(verdict, policy, seconds) {
  if (!isVerdict(verdict)) throw new Failure("The answer is no verdict.", { status: 200 });
  shown = verdict;
  showOutcome("verdict");
  showPart("request", "Request", verdict.request);
  showPart("response", "Response", verdict.response);
  showCategory(verdict.category, policy);
  $("reasoning").hidden = !verdict.reasoning;
  write("reasoning-text", verdict.reasoning ?? "");
  write("looked-at", lookedAt(verdict));
  write("used-policy", policy ? policyText(policy) : "your own");
  write("used-mode", MODES[verdict.mode] ?? String(verdict.mode));
  write("tokens", Object.entries(verdict.tokens ?? {}).map(([kind, n]) => `${n} ${kind}`).join(", "));
  showDigest($("verdict-digest"), verdict.artifact);
  write("verdict-id", String(verdict.id));
  showTimings(verdict.timings_ms ?? {}, seconds);
  write("json", JSON.stringify(verdict, null, 2));
  write("said", spoken(verdict));
  if (verdict.category && !verdict.category.in_policy) unseenAt = 0;
}

function showPart(id, title, part) {
  const box = $(`part-${id}`);
  box.className = `part ${part ? part.label : "none"}`;
  if (!part) {
    box.replaceChildren(make("h3", "", title), make("p", "", "None was given."));
    return;
  }
  const word = make("span", "word", icon(part.label), part.label === "safe" ? "Safe" : "Unsafe");
  const score = titled(make("span", "score", "score ", scoreText(part.score)), String(part.score));
  const scale = make("span", "scale", make("span", "", "safe"), make("span", "", "unsafe"));
  scale.setAttribute("aria-hidden", "true");
  box.replaceChildren(
    make("h3", "", title), make("p", "judged", word, score), filled("meter", part.score), scale);
}

function showCategory(category, policy) {
  $("category").hidden = !category;
  if (!category) return;
  const mark = category.in_policy
    ? make("span", "id", String(category.id)) : make("span", "outside", "not in the policy");
  const name = make("span", "name", category.name);
  const described = policy?.categories
    .find((each) => each.id === category.id && each.name === category.name)?.description;
  const share = typeof category.score === "number"
    ? `Probability ${scoreText(category.score)} among all categories, given that it is unsafe.` : "";
  $("category").replaceChildren(make("p", "", mark, " ", name));
  for (const line of [described, share]) {
    if (line) $("category").append(make("p", "hint", line));
  }
}

function lookedAt(verdict) {
  const seen = verdict.evaluated.map((each) => LOOKED_AT[each] ?? String(each));
  if ("ocr" in (verdict.timings_ms ?? {}) && !verdict.evaluated.includes("image_text")) {
    seen.push("no text was found in the image");
  }
  return seen.join(", ");
}

function showTimings(timings, seconds) {
  const known = Object.entries(timings).filter(([name, ms]) =>
    name !== "total" && typeof ms === "number");
  const rank = ([name]) => (PHASES.indexOf(name) + 1) || PHASES.length + 1;
  known.sort((one, other) => rank(one) - rank(other));
  const all = timings.total || known.reduce((sum, [, ms]) => sum + ms, 0) || 1;
  const rows = known.map(([name, ms]) => timingRow(name, ms, ms / all));
  if (typeof timings.total === "number") rows.push(timingRow("total", timings.total, 0, "sum"));
  rows.push(timingRow("round trip", seconds * 1000, 0));
  $("timings").replaceChildren(...rows);
}

function timingRow(name, ms, share, className = "") {
  const head = make("th", "", name);
  head.scope = "row";
  const bar = share ? filled("bar", share) : "";
  return make("tr", className, head, make("td", "", bar), make("td", "", `${msText(ms)} ms`));
}

function spoken(verdict) {
  const parts = [`Request ${verdict.request.label}, ${scoreText(verdict.request.score)}.`];
  if (verdict.response) {
    parts.push(`Response ${verdict.response.label}, ${scoreText(verdict.response.score)}.`);
  }
  const { category } = verdict;
  if (category) parts.push(category.in_policy ? `${category.name}.` : `Not in the policy: ${category.name}.`);
  return parts.join(" ");
}

// ---- No verdict

let waiting = 0;

/** null takes a failure off the page. */
function showFailure(failure) {
  if (!failure) {
    if (!$("failure").hidden) showOutcome("empty");
    return;
  }
  showOutcome("failure");
  write("failure-message", failure.message);
  write("failure-status", [failure.status || "", failure.code].filter(Boolean).join(" ") || "none");
  $("failure-id-row").hidden = !failure.id;
  write("failure-id", failure.id);
  write("alarm", `No verdict. ${failure.message}`);
  $("again-row").hidden = !mayHelp(failure);
  countDown(failure.retryAfter);
  if (failure.status === 401) $("key").focus();
}

/** Whether asking once more for the same content may end otherwise. */
function mayHelp({ status, code }) {
  return status >= 500 || [401, 408, 429].includes(status) || (status === 0 && code !== "not sent");
}

function countDown(seconds) {
  const end = performance.now() + seconds * 1000;
  const tick = () => {
    const left = Math.ceil((end - performance.now()) / 1000);
    $("again").setAttribute("aria-disabled", String(left > 0));
    write("countdown", left > 0 ? `The server asks to wait ${left} s.` : "");
    if (left <= 0) clearInterval(waiting);
  };
  waiting = setInterval(tick, 250);
  tick();
}

// ---- The operator's part

let connected = false;
let paused = false;
let polling = false;
let timer = 0;
let last = null; // the last status
let unseenAt = 0; // when unseen risks were asked for
let unseenOf = -1; // how many verdicts there were then
const opened = new Set();

/** now: also where the page is paused. */
async function poll(now = false) {
  clearTimeout(timer);
  if (polling || (!now && (paused || document.hidden))) return;
  polling = true;
  let wanted = true;
  try {
    const status = await callJson("v1/status", { signal: AbortSignal.timeout(10000) });
    if (!connected) await loadPolicies();
    showStatus(status);
    if (status.verdicts !== unseenOf && Date.now() - unseenAt >= UNSEEN_MS) {
      unseenAt = Date.now();
      showUnseen((await callJson("v1/unseen")).groups);
      unseenOf = status.verdicts;
    }
  } catch (error) {
    showLost(error);
    wanted = error.status !== 401;
  } finally {
    polling = false;
  }
  if (wanted) timer = setTimeout(poll, POLL_MS);
}

function showStatus(status) {
  connected = true;
  if (last?.since !== status.since) unseenOf = -1;
  const same = last && JSON.stringify(last.recent) === JSON.stringify(status.recent);
  last = status;
  showState(status.ready ? "ready" : "waiting", status.ready ? "ready" : "not ready");
  $("artifact").hidden = false;
  write("artifact-name", status.artifact.name);
  showDigest($("artifact-digest"), status.artifact.digest);
  showModes(status.modes, status.mode);
  showEyes(status.modalities, status.image_text_only);
  delete $("tiles").dataset.lost;
  write("tile-queue", String(status.queue));
  write("tile-workers", `${status.workers.ready} of ${status.workers.all}`);
  write("tile-restarts", String(status.workers.restarts));
  write("tile-verdicts", status.verdicts.toLocaleString());
  write("tile-errors", status.errors.toLocaleString());
  write("tile-p50", secondsText(status.seconds.p50));
  write("tile-p95", secondsText(status.seconds.p95));
  write("updated", `updated ${timeText(new Date())}, running since ${new Date(status.since * 1000).toLocaleString()}`);
  if (!same) showRecent();
}

function showState(state, word) {
  $("state").dataset.state = state;
  write("state-word", word);
  write("tile-state", word);
}

function showLost(error) {
  connected = false;
  $("tiles").dataset.lost = "";
  write("updated", error.message);
  if (error.status === 401) showState("lost", "needs a key");
  else if (error.status) showState("lost", `error ${error.status}`);
  else showState("lost", "no connection");
}

function chosenFilter() {
  return document.querySelector("[name=filter]:checked").value;
}

function showRecent() {
  const filter = chosenFilter();
  const lines = (last?.recent ?? []).filter((line) =>
    filter === "all" || (filter === "error" ? "error" in line : line.label === filter));
  $("recent").replaceChildren(...lines.map(recentRow));
  $("recent-none").hidden = lines.length > 0;
  document.querySelector(".recent").hidden = lines.length === 0;
}

function recentRow(line) {
  const time = new Date(line.time * 1000);
  const label = "error" in line ? "error" : line.label;
  const word = label === "error" ? "no verdict" : label;
  const cells = [
    titled(make("td", "", timeText(time)), time.toLocaleString()),
    make("td", "", make("span", `mark ${label === "safe" || label === "unsafe" ? label : "error"}`,
      icon(label === "safe" || label === "unsafe" ? label : "error"), String(word))),
    make("td", "number", typeof line.score === "number" ? scoreText(line.score) : ""),
    categoryCell(line),
    make("td", "number", line.seconds === undefined ? "" : secondsText(line.seconds)),
    titled(make("td", "request code", String(line.id)), String(line.id)),
  ];
  return make("tr", "", ...cells);
}

function categoryCell(line) {
  if ("error" in line) return make("td", "wide-cell muted", String(line.error));
  if (!line.category) return make("td", "wide-cell");
  const mark = line.category_id
    ? make("span", "id", line.category_id) : make("span", "outside", "not in the policy");
  return titled(make("td", "wide-cell", mark, ` ${line.category}`), line.category);
}

function showUnseen(groups) {
  $("groups").replaceChildren(...groups.map(groupItem));
  $("groups").hidden = groups.length === 0;
  $("groups-none").hidden = groups.length > 0;
  $("draft").hidden = groups.length === 0;
}

function groupItem(group) {
  const name = make("span", "name", group.name);
  const count = titled(make("span", "count", String(group.count)), "how often it was named");
  if (group.names.length < 2) return make("li", "", make("div", "single", name, count));
  name.append(" ", make("span", "muted", `${group.names.length} names`));
  const names = group.names.map(([each, times]) =>
    make("li", "", make("span", "", each), make("span", "", String(times))));
  const details = make("details", "", make("summary", "", name, count), make("ul", "", ...names));
  details.open = opened.has(group.name);
  details.addEventListener("toggle", () => opened[details.open ? "add" : "delete"](group.name));
  return make("li", "", details);
}

/** By hand, because a link would not carry the key. */
async function downloadDraft() {
  write("draft-failed", "");
  try {
    const draft = await (await call("v1/unseen/policy")).blob();
    const link = make("a", "");
    link.href = URL.createObjectURL(draft);
    link.download = "policy-draft.yaml";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  } catch (error) {
    write("draft-failed", `No draft: ${error.message}`);
  }
}

function pause() {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  write("pause", paused ? "Resume" : "Pause");
  poll();
}

// ---- The beginning

async function start() {
  connected = false;
  await poll(true);
}

function hasFiles(event) {
  return [...(event.dataTransfer?.types ?? [])].includes("Files");
}

function listenForFiles() {
  $("files").addEventListener("change", () => {
    addFiles($("files").files);
    $("files").value = "";
  });
  // Anywhere in the window: a picture that misses the form must not replace the page.
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    document.body.classList.add("over");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("over");
  });
  addEventListener("drop", (event) => {
    document.body.classList.remove("over");
    if (!hasFiles(event)) return;
    event.preventDefault();
    const field = event.target.closest?.("#user, #response");
    addFiles(event.dataTransfer.files, field);
  });
  addEventListener("paste", (event) => {
    const { files, types } = event.clipboardData;
    // Word processors bring a picture of the text beside the text.
    if (!files.length || types.includes("text/plain")) return;
    event.preventDefault();
    addFiles(files);
  });
}

function listen() {
  $("theme").addEventListener("click", () => {
    const theme = nextTheme();
    setTheme(theme);
    keep("localStorage", THEME, theme === "auto" ? null : theme);
    showTheme();
  });
  $("key-form").addEventListener("submit", useKey);
  $("key-forget").addEventListener("click", () => {
    setKey(null);
    start();
  });
  $("content").addEventListener("submit", (event) => {
    event.preventDefault();
    judge();
  });
  $("content").addEventListener("input", edited);
  $("policy").addEventListener("change", showPolicy);
  addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      judge();
    }
  });
  $("clear").addEventListener("click", clearContent);
  $("cancel").addEventListener("click", () => {
    cancel();
    $("judge").focus();
  });
  $("again").addEventListener("click", () => {
    if ($("again").getAttribute("aria-disabled") !== "true") judge();
  });
  $("copy-json").addEventListener("click", () =>
    copyFrom($("copy-json"), $("copy-json").querySelector("span"), JSON.stringify(shown)));
  for (const id of ["artifact-digest", "verdict-digest"]) {
    $(id).addEventListener("click", () => copyFrom($(id), $(id), $(id).title));
  }
  for (const each of document.getElementsByName("filter")) each.addEventListener("change", showRecent);
  $("draft").addEventListener("click", downloadDraft);
  $("pause").addEventListener("click", pause);
  document.addEventListener("visibilitychange", () => poll());
  listenForFiles();
}

addEventListener("DOMContentLoaded", () => {
  showTheme();
  listen();
  if (key) showKeyForm(false);
  start();
});
