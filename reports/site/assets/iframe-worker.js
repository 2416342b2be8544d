// Browsers start no worker of a page that was opened from a file; the search's own then runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.appendChild(frame)
      const inner = frame.contentWindow
      inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
      inner.importScripts = () => {}
      const script = inner.document.createElement("script")
      this.ready = new Promise((resolve) => script.addEventListener("load", resolve))
      this.inner = inner
      script.src = url
      inner.document.body.appendChild(script)
    }
    postMessage(data) {
      this.ready.then(() => this.inner.dispatchEvent(new this.inner.MessageEvent("message", { data })))
    }
    terminate() {}
  }
}
