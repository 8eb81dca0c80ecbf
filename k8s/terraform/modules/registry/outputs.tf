output "image_registry" {
  description = "Where images are pushed and pulled, for IMAGE_REGISTRY and the chart."
  value       = google_artifact_registry_repository.images.registry_uri
}
