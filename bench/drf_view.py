"""To compare with: a Django REST Framework view that does nothing but ask Triton.

No key is checked and nothing is counted. Run by bench.gateway with TRITON_INFER_URL set.
"""

from __future__ import annotations

import os

import django
import httpx
from django.conf import settings
from django.urls import path

settings.configure(
    SECRET_KEY="benchmark",
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["rest_framework"],
    REST_FRAMEWORK={"UNAUTHENTICATED_USER": None, "DEFAULT_AUTHENTICATION_CLASSES": []},
)
django.setup()

from django.core.wsgi import get_wsgi_application  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.views import APIView  # noqa: E402

triton = httpx.Client(timeout=30)


class InferView(APIView):
    """POST a request of the Open Inference Protocol."""

    def post(self, request):
        answer = triton.post(os.environ["TRITON_INFER_URL"], json=request.data)
        return Response(answer.json(), status=answer.status_code)


urlpatterns = [path("", InferView.as_view())]
app = get_wsgi_application()
