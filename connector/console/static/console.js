// Keeps the regions of an open page up to date. Without it, pages work the same after a reload.
"use strict";

const state = document.getElementById("live-state");
let source = null;
let running = false;
let again = false;

const editing = (region) => {
  const active = document.activeElement;
  return active !== null && active !== document.body && region.contains(active)
    && active.matches("input, select, textarea");
};

const keepOpen = (before, after) => {
  const details = after.querySelectorAll("details");
  before.querySelectorAll("details").forEach((old, index) => {
    if (old.open && details[index]) details[index].open = true;
  });
};

// A button that had the focus has it again: it is found by its place among those of its region.
const focused = (region) => {
  const all = [...region.querySelectorAll("a, button, summary")];
  const index = all.indexOf(document.activeElement);
  return index < 0 ? null : index;
};

const replace = (region, fresh) => {
  if (region.innerHTML === fresh.innerHTML || editing(region)) return;
  if (region.contains(document.getSelection()?.anchorNode) && !document.getSelection().isCollapsed) return;
  const index = focused(region);
  keepOpen(region, fresh);
  region.replaceChildren(...fresh.childNodes);
  if (index !== null) region.querySelectorAll("a, button, summary")[index]?.focus({ preventScroll: true });
};

// Of a page whose stream brings its regions: what each should show. One that is being edited now is
// replaced by a later message.
const regions = new Map();

const show = (event) => {
  for (const [id, html] of Object.entries(JSON.parse(event.data))) regions.set(id, html);
  for (const [id, html] of regions) {
    const region = document.getElementById(id);
    const fresh = document.createElement(region.tagName);
    fresh.innerHTML = html;
    replace(region, fresh);
  }
};

const update = async () => {
  if (running) {
    again = true;
    return;
  }
  running = true;
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    if (answer.redirected || !answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const region of document.querySelectorAll("[data-live]")) {
      const fresh = page.getElementById(region.id);
      if (fresh) replace(region, fresh);
    }
  } catch {
    // The stream reconnects by itself; the next change updates the page.
  } finally {
    running = false;
    if (again) {
      again = false;
      update();
    }
  }
};

const close = () => {
  source?.close();
  source = null;
};

const open = () => {
  if (source !== null || document.hidden || !document.querySelector("main [data-live]")) return;
  const stream = document.getElementById("main").dataset.stream;
  source = new EventSource(stream ?? "/api/v1/events");
  source.addEventListener("change", update);
  source.addEventListener("regions", show);
  source.onopen = () => {
    state.textContent = "· live";
    if (!stream) update();
  };
  source.onerror = () => {
    state.textContent = "· not live: reconnecting";
  };
};

// Buttons that need script are shown by it alone.
for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const label = button.textContent;
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = label), 2000);
  });
}

document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
addEventListener("pagehide", close);
open();

// A preview follows every change of its form. Without script its button does the same. A newer one
// ends the one before it: answers may arrive in another order than they were asked for.
for (const form of document.querySelectorAll("[data-preview]")) {
  let last = null;
  form.addEventListener("change", async () => {
    last?.abort();
    if (!form.elements.who.value) return;
    last = new AbortController();
    const body = new URLSearchParams(new FormData(form));
    body.set("what", "preview");
    try {
      const answer = await fetch(form.action, { method: "POST", body, signal: last.signal });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById(form.dataset.preview);
      if (fresh) document.getElementById(form.dataset.preview).replaceChildren(...fresh.childNodes);
    } catch {
      // The next change asks again.
    }
  });
}
