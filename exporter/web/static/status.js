// Keeps the page current: ages count up each second, and every 15 seconds the parts are fetched again. Without this script the
// page is complete, but does not change.
"use strict";

const updated = document.getElementById("updated");
let ahead = Date.now() / 1000 - Number(updated.dataset.now);

function words(seconds) {
  const rounded = (size, unit) => `${Math.round(seconds / size)} ${unit}`;
  if (seconds >= 2 * 86400) return rounded(86400, "d");
  if (seconds >= 2 * 3600) return rounded(3600, "h");
  if (seconds >= 90) return rounded(60, "min");
  return rounded(1, "s");
}

function tick() {
  const now = Date.now() / 1000 - ahead;
  for (const time of document.querySelectorAll("time[data-at]")) {
    time.textContent = words(Math.max(0, now - Number(time.dataset.at)));
  }
  for (const time of document.querySelectorAll("time[data-until]")) {
    const left = Number(time.dataset.until) - now;
    time.textContent = left >= 0.5 ? `in ${words(left)}` : "due";
  }
}

function localise() {
  for (const time of document.querySelectorAll("time[data-clock]")) {
    time.textContent = new Date(time.dateTime).toLocaleTimeString();
  }
}

async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch(`./${location.search}`, { cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (!answer.ok) throw new Error(answer.statusText);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const before = new Map(Array.from(document.querySelectorAll("details"), (each) => [each.dataset.key, each.open]));
    for (const each of fresh.querySelectorAll("details")) each.open = before.get(each.dataset.key) ?? each.open;
    const focused = document.activeElement.closest?.("details")?.dataset.key;
    for (const place of ["main", "header"]) document.querySelector(place).replaceWith(fresh.querySelector(place));
    document.title = fresh.title;
    document.body.classList.remove("gone");
    ahead = Date.now() / 1000 - Number(document.getElementById("updated").dataset.now);
    for (const each of document.querySelectorAll("details")) {
      if (focused !== undefined && each.dataset.key === focused) each.querySelector("summary").focus();
    }
    localise();
    filter();
  } catch {
    gone();
  }
}

// The figures shown are no longer current: the page dims, and the headline says why.
function gone() {
  if (document.body.classList.contains("gone")) return;
  document.body.classList.add("gone");
  const clock = document.querySelector("time[data-clock]").textContent;
  const said = `The exporter has not answered since ${clock}`;
  document.querySelector("h1").textContent = said;
  document.title = said;
}

// The server filters by the address; while somebody types, the rows that are here are filtered at once.
function filter() {
  const form = document.querySelector(".search");
  if (!form) return;
  const wanted = form.elements.q.value.toLowerCase().split(/\s+/).filter(Boolean);
  const verdict = form.elements.verdict.value;
  let shown = 0;
  for (const row of document.querySelectorAll("[data-find]")) {
    const fits = (!verdict || row.dataset.verdict === verdict) && wanted.every((word) => row.dataset.find.includes(word));
    row.hidden = !fits;
    shown += fits;
  }
  for (const group of document.querySelectorAll(".group")) group.hidden = !group.querySelector("[data-find]:not([hidden])");
  document.querySelector(".none-found").hidden = shown > 0 || !document.querySelector("[data-find]");
}

localise();
filter();
document.querySelector(".search")?.addEventListener("input", filter);
setInterval(tick, 1000);
setInterval(refresh, 15000);
document.addEventListener("visibilitychange", refresh);
