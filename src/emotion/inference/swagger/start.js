// A file of its own, since the content security policy forbids scripts inside the page.
SwaggerUIBundle({ url: "openapi.json", dom_id: "#swagger-ui", validatorUrl: null });
